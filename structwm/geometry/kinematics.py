"""Forward kinematics of trees of links, batched and differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.geometry.rotations import normalize_quaternion, quaternion_multiply, quaternion_rotate, rotation_vector_to_quaternion

JointKind = Literal["fixed", "hinge", "slide"]


class KinematicTree:
    """Links that hang together by joints; parents stand before their children.

    Args:
        links: L names.
        parents: of each link, the number of its parent; -1 for one that hangs on the base.
        kinds: of the joint from the parent: `fixed`, `hinge` (turns about its axis) or `slide` (moves along it).
        positions: (L, 3) where the joint, and so the link's frame, is in the parent's frame at 0 [m].
        rotations: (L, 4) how it is turned there, quaternions wxyz of any length but 0.
        axes: (L, 3) in the link's frame; of any length but 0 for joints that move.
        low: (J,) bounds of the J joints that move, in the order of their links [rad] or [m]; -inf where there is none.
        high: (J,).

    Raises:
        ValueError: in one sentence, on numbers that do not fit, a parent behind its child, or an axis of no length.
    """

    def __init__(
        self,
        links: Sequence[str],
        parents: Sequence[int],
        kinds: Sequence[JointKind],
        positions: Tensor,
        rotations: Tensor,
        axes: Tensor,
        *,
        low: Tensor | None = None,
        high: Tensor | None = None,
    ) -> None:
        count = len(links)
        shapes = (tuple(positions.shape), tuple(rotations.shape), tuple(axes.shape))
        if not len(parents) == len(kinds) == count or shapes != ((count, 3), (count, 4), (count, 3)) or not count:
            raise ValueError(f"A kinematic tree of {count} links needs as many parents, kinds, positions, rotations and axes, got {shapes}.")
        late = [links[i] for i, parent in enumerate(parents) if not -1 <= parent < i]
        if late:
            raise ValueError(f"A kinematic tree needs parents before their children, and {late[0]!r} stands before its own.")
        unknown = sorted(set(kinds) - {"fixed", "hinge", "slide"})
        if unknown:
            raise ValueError(f"A kinematic tree has joints that are fixed, hinge or slide, got {unknown[0]!r}.")
        self.links, self.parents, self.kinds = tuple(links), tuple(int(parent) for parent in parents), tuple(kinds)
        self.moving = tuple(i for i, kind in enumerate(kinds) if kind != "fixed")
        if any(float(axes[i].norm()) == 0 for i in self.moving):
            raise ValueError("A kinematic tree needs axes of some length for joints that move.")
        self.positions, self.rotations = positions.float(), normalize_quaternion(rotations.float())
        self.axes = torch.nn.functional.normalize(axes.float(), dim=-1)
        joints = len(self.moving)
        self.low = torch.full((joints,), -torch.inf) if low is None else low.float()
        self.high = torch.full((joints,), torch.inf) if high is None else high.float()
        if self.low.shape != (joints,) or self.high.shape != (joints,) or not bool((self.low <= self.high).all()):
            raise ValueError(f"A kinematic tree with {joints} joints that move needs as many bounds, low <= high, got {self.low} and {self.high}.")

    def config(self) -> dict[str, Any]:
        """The arguments it was made with."""
        names = ("links", "parents", "kinds", "positions", "rotations", "axes", "low", "high")
        return {name: getattr(self, name) for name in names}

    @property
    def joints(self) -> int:
        """J, how many joints move."""
        return len(self.moving)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Of each joint that moves, the link that it moves."""
        return tuple(self.links[i] for i in self.moving)

    def poses(self, joints: Tensor, base: Tensor | None = None) -> Tensor:
        """`world_from_link` of every link, (*B, L, 7): position [m], then quaternion wxyz.

        Args:
            joints: (*B, J) angles [rad] and displacements [m].
            base: (7,) or (*B, 7), `world_from_base`; the world's frame if not given.

        Raises:
            ValueError: on another number of joints.
        """
        if joints.shape[-1] != self.joints:
            raise ValueError(f"This kinematic tree has {self.joints} joints that move, {', '.join(self.joint_names)}, got {joints.shape[-1]} numbers.")
        batch = joints.shape[:-1]
        positions, rotations, axes = (value.to(joints) for value in (self.positions, self.rotations, self.axes))
        origin = joints.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]) if base is None else base.to(joints)
        values = dict(zip(self.moving, joints.unbind(-1), strict=True))
        found: list[Tensor] = []
        for i, (parent, kind) in enumerate(zip(self.parents, self.kinds, strict=True)):
            outer = (found[parent] if parent >= 0 else origin).expand(*batch, 7)
            place, turn = outer[..., :3] + quaternion_rotate(outer[..., 3:], positions[i].expand(*batch, 3)), outer[..., 3:]
            turn = quaternion_multiply(turn, rotations[i].expand(*batch, 4))
            if kind == "hinge":
                turn = quaternion_multiply(turn, rotation_vector_to_quaternion(values[i].unsqueeze(-1) * axes[i]))
            elif kind == "slide":
                place = place + quaternion_rotate(turn, values[i].unsqueeze(-1) * axes[i])
            found.append(torch.cat((place, turn), -1))
        return torch.stack(found, -2)
