"""`SplatDynamics`: a scene of splats driven by any model with a points view, such as a twin or a learned model of point clouds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.chain_skinning import chain_skin
from structwm.geometry.object_skinning import object_skin
from structwm.geometry.splat_checks import check_splats
from structwm.noise import Noise
from structwm.perception.cloud_thinning import farthest_points
from structwm.render.rendering import Rendering
from structwm.scene import ViewMissing
from structwm.spec import Action
from structwm.state import Splats, State, fields_of
from structwm.transition import Trajectory, TransitionModel
from structwm.wrappers import ModelWrapper

from .driven import Skinned
from .splat_scene import ROBOT, STATIC, Packing, SplatReader, SplatScene, render_states

PADDING = -3  # id of nodes that are masked


class SplatDynamics(ModelWrapper[SplatScene]):
    """Splats of a scene driven by a model: its points are nodes, each splat follows those of its own object, and predictions can be drawn.

    A splat goes with the blend of its nodes' motions (`skin_splats`), each node turning with its object's nodes around it (`node_rotations`): objects whose
    nodes move rigidly stay rigid. The action is the driving model's own. Linear blend skinning as in SC-GS (Huang et al., CVPR 2024), driven by a learned
    model as in Zhang, Zhang and Li (CoRL 2024).

    Args:
        model: with a points view; a twin, or a model of point clouds.
        splats: of one world, or their fields by name.
        start: state of the model, without batch axes, in which the splats are where they are; or its fields by name.
        object_ids: int (S,), the object of each splat, as the ids of the points view; `STATIC` (-1) for what never moves, `ROBOT` (-2) for what follows the
            points `robot` of the model's state. All are of object 0 if not given.
        skin: of the splats that move, which nodes each follows, or its indices and weights; by default the `k` nearest of its own object.
        k: nodes that a splat follows, and that a node's turn is taken from.
        chain: the points are one chain, in their order, as the vertices of a rod.
        constant: floating fields of the model's state that no step changes, which therefore are no part of `SplatScene`.

    Raises:
        ViewMissing: if the model has no points view.
        ValueError: in one sentence, on splats that cannot be drawn, or ids or a start that do not fit.
    """

    scene: SplatReader

    def __init__(
        self,
        model: TransitionModel[Any],
        splats: Splats | Mapping[str, Tensor],
        start: State | Mapping[str, Tensor],
        *,
        object_ids: Tensor | None = None,
        skin: Skinned | None = None,
        k: int | None = None,
        chain: bool = False,
        constant: Sequence[str] = ("rest", "features"),
    ) -> None:
        super().__init__(model)
        splats = splats if isinstance(splats, Splats) else Splats(**splats, batch_size=[])  # type: ignore[arg-type]
        if "points" not in model.scene.views:
            raise ViewMissing(f"SplatDynamics needs a model with the view 'points'; {type(model).__name__} offers {', '.join(sorted(model.scene.views))}.")
        check_splats(splats)
        ids = _ids(splats, object_ids)
        fields = fields_of(start) if isinstance(start, State) else dict(start)
        packing = Packing(model.scene, model.spec.state_type, fields, tuple(constant))
        nodes, node_ids = _nodes(packing, start, follows_robot=bool((ids == ROBOT).any()), what=type(model).__name__)
        strangers = sorted(set(ids[ids != STATIC].tolist()) - set(node_ids.tolist()))
        if strangers:
            known = ", ".join(map(str, sorted({number for number in node_ids.tolist() if number >= 0})))
            raise ValueError(f"SplatDynamics: expected splats of the objects that have nodes ({known}), STATIC or ROBOT, got some of object {strangers[0]}.")
        if skin is None:
            means, own = splats.means[ids != STATIC], ids[ids != STATIC]
            if not len(means):
                raise ValueError("SplatDynamics needs splats that move, got only static ones.")
            skin = chain_skin(means, nodes, k=k or 4) if chain else object_skin(means, own, nodes, node_ids, k=k or 8)
        self.k, self.chain = k, chain
        self.spec = replace(self.spec, state_type=SplatScene)
        self.scene = SplatReader(packing, splats, ids, nodes, skin=skin, k=k, chain=chain, node_ids=node_ids)

    @classmethod
    def from_splats(
        cls,
        model: TransitionModel[Any],
        splats: Splats,
        start: Callable[[Tensor, Tensor], State],
        *,
        object_ids: Tensor | None = None,
        nodes: int = 32,
        opaque: float = 0.5,
        **options: Any,
    ) -> SplatDynamics:
        """The same with nodes that are chosen: of each object those of its opaque splats that lie farthest apart.

        Args:
            model: with a points view.
            splats: of one world.
            start: from nodes (N, 3) [m] and their object ids int (N,) to the model's state there, without batch axes, for example
                `lambda nodes, ids: point_cloud(nodes, robot, context=2, object_ids=ids)`.
            object_ids: as of the class.
            nodes: of each object.
            opaque: opacity from which a splat may become a node; haze around an object is none.
            options: as of the class.

        Raises:
            ValueError: in one sentence, as the class, and if an object has fewer opaque splats than nodes.
        """
        check_splats(splats)
        ids = _ids(splats, object_ids)
        places, numbers = [], sorted({number for number in ids.tolist() if number >= 0})
        if not numbers:
            raise ValueError("SplatDynamics.from_splats needs splats of at least one object that moves, with an id from 0 on.")
        solid = splats.opacities >= opaque
        for number in numbers:
            own = splats.means[(ids == number) & solid]
            if len(own) < nodes:
                raise ValueError(
                    f"SplatDynamics.from_splats: expected at least {nodes} splats of an opacity of {opaque} or more in object {number} to choose nodes from, "
                    f"got {len(own)}; ask for fewer nodes."
                )
            places.append(own[farthest_points(own, nodes)])
        return cls(model, splats, start(torch.cat(places), torch.tensor(numbers).repeat_interleave(nodes).to(ids)), object_ids=ids, **options)

    def config(self) -> dict[str, Any]:
        scene = self.scene
        skin = (scene.skin.indices, scene.skin.weights)
        start, constant = dict(scene.packing.start), scene.packing.constant
        return {"model": self.model, "splats": scene.whole, "start": start, "object_ids": scene.ids, "skin": skin, "constant": constant} | {
            "k": self.k,
            "chain": self.chain,
        }

    def start(self) -> SplatScene:
        """The state in which the splats are where they were given, without batch axes."""
        return self.scene.packing.pack(self.scene.packing.state())

    def state(self, driving: State) -> SplatScene:
        """The scene's state for a state (*B) of the driving model that has the same objects."""
        return self.scene.packing.pack(driving)

    def render(self, trajectory: Trajectory, camera: Camera, **options: Any) -> Rendering:
        """What cameras see of a prediction, images (*B, H+1, *V, height, width, 3); see `render_states`."""
        return render_states(self.scene, trajectory.states, camera, **options)

    # the contract

    def inner(self, state: SplatScene, action: Action) -> tuple[Any, Action]:
        return self.scene.packing.unpack(state), action

    def outer(self, state: Any) -> SplatScene:
        return self.scene.packing.pack(state)

    def prepare(self, state: SplatScene, actions: Action) -> tuple[SplatScene, Action]:
        state, actions = super().prepare(state, actions)
        self.model.prepare(*self.inner(state, actions))
        return state, actions

    def roll(self, state: SplatScene, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        found = self.model.roll(*self.inner(state, actions), noise=noise)
        self.scene.packing.check_constant(found.states[..., -1])
        return replace(found, scene=self.scene, states=self.outer(found.states))

    def applicable(self, state: SplatScene) -> Tensor | None:
        return self.model.applicable(self.scene.packing.unpack(state))

    def value(self, state: SplatScene) -> Tensor | None:
        return self.model.value(self.scene.packing.unpack(state))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        self.scene = self.scene.cast(fn)
        return moved


def _ids(splats: Splats, ids: Tensor | None) -> Tensor:
    if ids is None:
        return torch.zeros(splats.means.shape[:-1], dtype=torch.int64, device=splats.means.device)
    if splats.batch_size or ids.shape != splats.means.shape[:-1] or ids.is_floating_point() or ids.dtype == torch.bool or int(ids.min()) < ROBOT:
        least = int(ids.min()) if ids.numel() and not ids.is_floating_point() else None
        raise ValueError(
            f"SplatDynamics: expected an integer id of at least {ROBOT} for each of the {splats.means.shape[-2]} splats of one world, got {ids.dtype} "
            f"{tuple(ids.shape)}{'' if least is None else f' from {least} on'}."
        )
    return ids.to(torch.int64)


def _nodes(packing: Packing, start: State | Mapping[str, Tensor], *, follows_robot: bool, what: str) -> tuple[Tensor, Tensor]:
    """Points that carry splats, (N, 3) or with the robot's (N + M, 3) [m], and the object of each."""
    if isinstance(start, State) and (not isinstance(start, packing.kind) or start.batch_size):
        raise ValueError(
            f"SplatDynamics of {what} needs a start {packing.kind.__name__} without batch axes, got {type(start).__name__} {tuple(start.batch_size)}."
        )
    seen = packing.scene.points(packing.state())
    ids = torch.zeros_like(seen.positions[:, 0], dtype=torch.int64) if seen.ids is None else seen.ids
    if seen.mask is not None:
        ids = torch.where(seen.mask, ids, PADDING)
    if not follows_robot:
        return seen.positions, ids
    robot = packing.start.get("robot")
    if robot is None or robot.ndim != 2 or not len(robot):
        raise ValueError(f"SplatDynamics: splats follow the robot, but the state of {what} has no points of one; give them the id STATIC.")
    return torch.cat((seen.positions, robot)), torch.cat((ids, torch.full((len(robot),), ROBOT).to(ids)))
