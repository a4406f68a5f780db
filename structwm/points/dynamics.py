"""What learned models of point clouds share: what the network is told of each point and each neighbour, and what becomes of its answer.

The network sees differences only: positions from the object's centroid and from neighbours, recent and coming motions, in units read from data
(`fit_scales`). So it does not depend on where in the world things happen; with `ground` it is also told how high each point is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.state import fields_of
from structwm.training.heads import HEADS, Head
from structwm.training.windows import Batch

from .cloud import PointCloud
from .cloud_model import CloudModel, carried, flat_fields
from .graph import Edges, Material, contacts, material, rows_of, taken
from .parts import as_rigid

EDGE = 11  # numbers that are told of an edge
BLOCK = 1 << 19  # numbers of messages that are computed at once


@dataclass(frozen=True)
class Told:
    """What the network is given of P problems with N points and M points of a robot; Q = N + M nodes, the robot's last."""

    nodes: Tensor  # (P, Q, F)
    within_index: Tensor  # int32 (P, N, K) neighbours in the same object
    within_rows: Tensor  # the same in all nodes of all problems, (P * N * K)
    within_weights: Tensor  # (P, N, K) 1, or 0 where there are fewer than K
    within_edges: Tensor  # (P, N, K, EDGE)
    across_index: Tensor  # int32 (P, N, L) nodes of other things
    across_rows: Tensor
    across_weights: Tensor  # (P, N, L) in [0, 1], which fade to 0 where things are out of reach
    across_edges: Tensor  # (P, N, L, EDGE)
    member: Tensor  # (P or 1, O, N)


class PointDynamics(CloudModel):
    """Predicts how every point of a cloud moves, given how the robot's surface does. Subclasses are the networks: `encode` and what they need.

    A step is `x' = x + inertia * (x - x_before) + scale * network`, or for rigid objects the rigid motion nearest to it.

    Args:
        touching: L, points of other things that act on a point.
        reach: [m] how near those are; None: read from data, with the scales.
        rigid: which objects keep their shape: none, all, or those of these materials (an object is of the material of its first point).
        inertia: 1: the network says how motion changes; 0: it says the motion.
        ground: whether the network is told heights above z = 0.
        head: `mean`, or `gaussian` for a predicted spread; of rigid objects all points err together.
        options: as of `CloudModel`.
    """

    width: int
    length: Tensor
    move: Tensor
    change: Tensor
    near: Tensor

    def __init__(
        self,
        *,
        touching: int = 6,
        reach: float | None = None,
        rigid: Literal["none", "all"] | Sequence[int] = "none",
        inertia: float = 1.0,
        ground: bool = False,
        head: Literal["mean", "gaussian"] = "mean",
        **options: Any,
    ) -> None:
        name = type(self).__name__
        if head not in ("mean", "gaussian") or (isinstance(rigid, str) and rigid not in ("none", "all")):
            raise ValueError(f"{name} knows the heads mean and gaussian, and rigid='none', 'all' or materials, got {head!r} and {rigid!r}.")
        if touching < 1 or (reach is not None and not reach > 0):
            raise ValueError(f"{name} needs touching of at least 1 and a reach above 0 m or None, got {touching} and {reach}.")
        self.stochastic = HEADS[head].stochastic
        super().__init__(**options)
        self.touching, self.reach, self.inertia, self.ground, self.head_name = touching, reach, inertia, ground, head
        self.rigid = rigid if isinstance(rigid, str) else tuple(int(number) for number in rigid)
        kinds = self.materials if self.materials > 1 else 0
        self.told = 3 * self.context + 3 + 3 + 2 + int(ground) + self.features + kinds  # numbers that are told of a node
        self.head: Head = HEADS[head](3)
        for key, number in (("length", 0.02), ("move", 0.005), ("change", 0.005), ("near", reach or 0.04)):
            self.register_buffer(key, torch.tensor(number))

    def config(self) -> dict[str, Any]:
        keys = ("touching", "reach", "rigid", "inertia", "ground")
        return super().config() | {key: getattr(self, key) for key in keys} | {"head": self.head_name}

    def fit_scales(self, windows: Batch) -> None:
        """Take the units of length, motion and its change from windows."""
        states: PointCloud = windows.states
        counted = states.mask & windows.valid[..., None]
        step = states.positions.diff(dim=1)[counted[:, 1:]]
        before = (states.positions - states.history[..., 0, :])[:, :-1][counted[:, 1:]]
        start = states[:, 0]
        graph = material(start.rest, start.object_ids, start.mask, min(3, self.neighbours))
        spacing = graph.distances[graph.edges.valid]
        if len(spacing):
            self.length.copy_(spacing.mean())
        self.move.copy_(step.square().mean().sqrt().clamp_min(1e-6))
        self.change.copy_((step - self.inertia * before).square().mean().sqrt().clamp_min(1e-7))
        if self.reach is None:
            robot = states.robot.diff(dim=1).norm(dim=-1)
            self.near.copy_(2.0 * self.length + 2.0 * (robot.max() if robot.numel() else 0.0))

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        x = flat["positions"]
        raw = self._raw(flat, graph, motion)
        found = self.inertia * (x - flat["history"][..., 0, :]) + self.change * self.head.mean(raw)
        if noise is not None and self.head.stochastic:
            found = found + self.change * self._noise(raw, graph.member, batch, noise)
        stiff = self._stiff(flat, graph)
        if stiff is None:
            return found
        return torch.where((stiff.sum(1) > 0).unsqueeze(-1), as_rigid(x, found, stiff), found)

    def log_prob(self, state: PointCloud, action: Tensor, next_state: PointCloud) -> Tensor:
        """Log density (*B) of where points were seen to go in a step, each number in units of `change`, averaged over the points that count and nothing holds.

        Each point's marginal density; of rigid objects too, whose points err together. For `structwm.training.NegativeLogLikelihood`.

        Args:
            state: (*B).
            action: motion of the robot's points (*B, 3 M) [m].
            next_state: (*B).
        """
        state, actions = self.prepare(state, action.unsqueeze(-2))
        batch = state.batch_size
        flat = flat_fields(fields_of(state), batch)
        graph = self._graph(fields_of(state), batch)
        raw = self._raw(flat, graph, actions.reshape(len(flat["positions"]), -1, 3))
        x = flat["positions"]
        seen = next_state.positions.reshape(x.shape) - x - self.inertia * (x - flat["history"][..., 0, :])
        counted = (flat["mask"] & (flat["held"] < 0)).to(x)
        density = self.head.log_prob(raw, seen / self.change)
        return ((density * counted).sum(-1) / counted.sum(-1).clamp_min(1.0)).view(batch)

    def _raw(self, flat: dict[str, Tensor], graph: Material, motion: Tensor) -> Tensor:
        """The network's numbers (P, N, head inputs); without gradients some problems at a time, so that what is said along edges stays in the cache."""
        problems, count = flat["positions"].shape[:2]
        block = max(1, BLOCK // (count * self.neighbours * self.width))
        if torch.is_grad_enabled() or problems <= block:
            return self.encode(self._tell(flat, graph, motion))
        parts = []
        for first in range(0, problems, block):
            some = slice(first, first + block)
            part = {name: value[some] for name, value in flat.items()}
            parts.append(self.encode(self._tell(part, graph if len(graph.member) == 1 else graph.of(some), motion[some])))
        return torch.cat(parts)

    def _stiff(self, flat: dict[str, Tensor], graph: Material) -> Tensor | None:
        """Membership (P or 1, O, N) in rigid objects; None where there are none."""
        if self.rigid == "none":
            return None
        if self.rigid == "all":
            return graph.member
        first = graph.member.argmax(-1)  # (P or 1, O)
        kind = flat["material_ids"].gather(1, first.expand(len(flat["material_ids"]), -1))
        return graph.member * torch.isin(kind, torch.tensor(self.rigid, device=kind.device)).unsqueeze(-1)

    def _noise(self, raw: Tensor, member: Tensor, batch: torch.Size, noise: Noise) -> Tensor:
        """Draws (P, N, 3) of the head's spread around its mean."""
        drawn = noise.normal((*batch, *raw.shape[1:2], 3), like=raw).reshape(*raw.shape[:2], 3)
        if self.rigid != "none":  # all points of an object err as one of them does
            drawn = member.transpose(-1, -2) @ drawn.gather(1, member.argmax(-1).expand(len(drawn), -1).unsqueeze(-1).expand(-1, -1, 3))
        return self.head.std(raw) * drawn

    def _tell(self, flat: dict[str, Tensor], graph: Material, motion: Tensor) -> Told:
        x, robot, mask, ids = flat["positions"], flat["robot"], flat["mask"], flat["object_ids"]
        problems, count, width = len(x), x.shape[1], x.shape[1] + robot.shape[1]
        where = torch.cat((x, robot), 1)
        past = torch.cat((flat["history"], flat["robot_history"]), 1)
        recent = torch.cat((where.unsqueeze(2), past), 2)
        speeds = (recent[:, :, :-1] - recent[:, :, 1:]) / self.move  # (P, Q, C, 3)
        coming = torch.cat((carried(flat["held"], motion), motion), 1) / self.move
        centre = graph.member.transpose(-1, -2) @ ((graph.member @ x) / graph.member.sum(-1, keepdim=True).clamp_min(1.0))
        middle = robot.mean(1, keepdim=True) if robot.shape[1] else robot
        arms = torch.cat((x - centre, robot - middle), 1) / (4.0 * self.length)
        robotic = torch.cat((x.new_zeros(count), x.new_ones(width - count))).expand(problems, -1).unsqueeze(-1)
        grasped = torch.nn.functional.pad((flat["held"] >= 0).to(x), (0, width - count), value=1.0).unsqueeze(-1)
        parts = [speeds.flatten(2), coming, arms, robotic, grasped]
        if self.ground:
            parts.append((where[..., 2:] / (4.0 * self.length)).clamp(-4.0, 4.0))
        if self.features:
            parts.append(torch.nn.functional.pad(flat["features"], (0, 0, 0, width - count)))
        if self.materials > 1:
            kinds = torch.nn.functional.one_hot(flat["material_ids"], self.materials).to(x)
            parts.append(torch.nn.functional.pad(kinds, (0, 0, 0, width - count)))
        seen = torch.cat((mask, mask.new_ones(problems, width - count)), 1)
        owner = torch.nn.functional.pad(ids, (0, width - count), value=-1)
        across = contacts(where, owner, seen, self.touching, float(self.near), count)
        both = torch.cat((where, speeds[:, :, 0], coming), -1)
        within_rows, across_rows = rows_of(graph.edges, width, problems), rows_of(across, width, problems)
        inside = (edges.expand(problems, -1, -1) for edges in (graph.edges.index.int(), graph.edges.valid.to(x)))
        return Told(
            torch.cat(parts, -1),
            next(inside).contiguous(),
            within_rows,
            next(inside).contiguous(),
            self._edges(both, within_rows, graph.edges, graph.distances),
            across.index.int(),
            across_rows,
            self._fading(where, across_rows, across),
            self._edges(both, across_rows, across, None),
            graph.member,
        )

    def _fading(self, where: Tensor, rows: Tensor, edges: Edges) -> Tensor:
        """Weights (P, R, L) of edges: 1 at touch, 0 at `near`, so that nothing jumps as things come near."""
        receivers, k = edges.index.shape[1:]
        distance = (taken(where, rows, receivers, k) - where[:, :receivers, None]).square().sum(-1).add(1e-18).sqrt()
        weights: Tensor = (1.0 - (distance / self.near).square()).clamp_min(0.0).square() * edges.valid
        return weights

    def _edges(self, both: Tensor, rows: Tensor, edges: Edges, rest: Tensor | None) -> Tensor:
        """What is told of edges, (P, R, K, EDGE): where the sender is, how far, how much farther than at rest, and how it moves and will move from there."""
        receivers, k = edges.index.shape[1:]
        apart = taken(both, rows, receivers, k) - both[:, :receivers, None]
        offset = apart[..., :3] / self.length
        distance = offset.square().sum(-1, keepdim=True).add(1e-12).sqrt()
        strain = torch.zeros_like(distance) if rest is None else 4.0 * (distance - (rest / self.length).unsqueeze(-1))
        return torch.cat((offset, distance, strain, apart[..., 3:]), -1) * edges.valid.unsqueeze(-1)

    @abstractmethod
    def encode(self, told: Told) -> Tensor:
        """Raw numbers (P, N, head inputs) of every point."""
