"""`DrivenSplats`: the splats view of any model that has a points view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from structwm.geometry.chain_skinning import chain_rotations, chain_skin
from structwm.geometry.object_skinning import object_skin
from structwm.geometry.skinning import Skin, node_rotations, skin_splats, skinning_weights
from structwm.geometry.splat_checks import check_splats
from structwm.noise import Noise
from structwm.scene import Scene, ViewMissing
from structwm.spec import Action
from structwm.state import Splats, State
from structwm.transition import Trajectory, TransitionModel
from structwm.wrappers import ModelWrapper

S = TypeVar("S", bound=State)
Skinned = Skin | Sequence[Tensor]


class DrivenScene(Scene):
    """A scene whose points carry splats along; all other views are those of `scene`.

    Each point turns as its neighbours' motion says (`node_rotations`), or, in a chain, without twist (`chain_rotations`); each splat follows the blend of its
    nodes' motions (`skin_splats`).

    Args:
        scene: with a points view.
        splats: of one world, where they are when the points are at `nodes` [m]; or its fields by name.
        nodes: points (N, 3) [m] at that moment.
        skin: which nodes each splat follows, or its indices and weights; by default the `k` nearest, in a chain those nearest along it.
        k: nodes that a splat follows, and that a point's turn is taken from.
        chain: the points are a chain, in their order, as the vertices of a rod.
        node_ids: int (N,), which object each point belongs to: points turn with those of their own object only. One object if not given.

    Raises:
        ViewMissing: if the scene has no points view.
        ValueError: if shapes do not fit.
    """

    def __init__(
        self,
        scene: Scene,
        splats: Splats | Mapping[str, Tensor],
        nodes: Tensor,
        *,
        skin: Skinned | None = None,
        k: int | None = None,
        chain: bool = False,
        node_ids: Tensor | None = None,
    ) -> None:
        if "points" not in scene.views:
            raise ViewMissing(f"DrivenScene needs a scene with the view 'points'; {type(scene).__name__} offers {', '.join(sorted(scene.views))}.")
        super().__init__(body_names=scene.body_names, point_names=scene.point_names, atom_names=scene.atom_names, periodic=tuple(scene.periodic))
        if not isinstance(splats, Splats):
            splats = Splats(**splats, batch_size=[])  # type: ignore[arg-type]
        check_splats(splats)
        if splats.batch_size or nodes.ndim != 2 or nodes.shape[-1] != 3:
            raise ValueError(
                f"DrivenScene: expected the splats of one world and nodes (N, 3), got splats {tuple(splats.batch_size)} and nodes {tuple(nodes.shape)}."
            )
        k = k or (4 if chain else 8)
        self.scene, self.rest, self.nodes, self.k, self.chain = scene, splats, nodes.to(splats.means), k, chain
        if skin is not None:
            self.skin = skin if isinstance(skin, Skin) else Skin(skin[0], skin[1], len(nodes))
        else:
            self.skin = chain_skin(splats.means, self.nodes, k=k) if chain else skinning_weights(splats.means, self.nodes, k=k)
        self.node_ids = node_ids
        if node_ids is None:
            self.neighbours = skinning_weights(self.nodes, self.nodes, k=k)
        else:
            self.neighbours = object_skin(self.nodes, node_ids, self.nodes, node_ids, k=k)
        if self.skin.node_count != len(nodes) or self.skin.indices.shape[0] != len(splats.means):
            raise ValueError(
                f"DrivenScene skin: expected {len(splats.means)} rows of {len(nodes)} nodes, got {self.skin.indices.shape[0]} of {self.skin.node_count}."
            )

    def config(self) -> dict[str, Any]:
        options = {"skin": (self.skin.indices, self.skin.weights), "k": self.k, "chain": self.chain, "node_ids": self.node_ids}
        return {"scene": self.scene, "splats": given_fields(self.rest), "nodes": self.nodes} | options

    def cast(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """The same scene with its floating tensors as `fn` makes them, such as on another device."""
        return type(self)(**cast_tensors(self.config(), fn))

    @property
    def views(self) -> frozenset[str]:
        return self.scene.views | {"splats"}

    def inner(self, state: Any) -> Any:
        """The state that `scene` reads, for one of this scene's own."""
        return state

    def carriers(self, state: Any) -> Tensor:
        """Where the points are that carry splats, (*B, N, 3) [m]."""
        return self.scene.points(state).positions

    def splats(self, state: Any, *, deformed: bool = False) -> Splats:
        """Splats (*B, N) carried along by the points of a state; `deformed` as of `skin_splats`, for what is drawn and for exact gradients."""
        moved = self.carriers(state).to(self.nodes)
        if moved.shape[-2:] != self.nodes.shape:
            raise ValueError(f"DrivenScene: expected states with {len(self.nodes)} points as the nodes, got {moved.shape[-2]}.")
        turns = chain_rotations(self.nodes, moved) if self.chain else node_rotations(self.nodes, moved, self.neighbours)
        return skin_splats(self.rest, self.skin, self.nodes, moved, rotations=turns, deformed=deformed)

    def _decode(self, view: str, *arguments: Any) -> Any:
        state, *rest = arguments
        return getattr(self.scene, view)(self.inner(state), *rest)

    def coordinates(self, state: Any) -> Tensor:
        return self.scene.coordinates(self.inner(state))

    def coordinate_names(self, state: Any) -> tuple[str, ...]:
        return self.scene.coordinate_names(self.inner(state))

    def coordinate_units(self, state: Any) -> tuple[str, ...]:
        return self.scene.coordinate_units(self.inner(state))

    def coordinate_difference(self, states: Any, reference: Any) -> Tensor:
        return self.scene.coordinate_difference(self.inner(states), self.inner(reference))

    def average(self, states: Any, dim: int) -> Any:
        return self.scene.average(states, dim)


def given_fields(splats: Splats) -> dict[str, Tensor]:
    """The fields of splats that are not None, by name."""
    return {name: value for name, value in splats.items() if value is not None}


def cast_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Constructor arguments with floating tensors as `fn` makes them, and others on the same device."""
    match value:
        case Tensor():
            return fn(value) if value.is_floating_point() else value.to(fn(torch.zeros((), device=value.device)).device)
        case dict():
            return {key: cast_tensors(item, fn) for key, item in value.items()}
        case tuple():
            return tuple(cast_tensors(item, fn) for item in value)
    return value


class DrivenSplats(ModelWrapper[S]):
    """`model`, whose predictions can also be seen: `trajectory.splats()` gives splats that follow its points.

    Nothing else about the model changes, not its step, its states or its actions; a fused rollout stays fused.

    Args:
        model: with a points view.
        splats: of one world, where they are when the points are at `nodes`; or its fields by name.
        nodes: points (N, 3) [m] at that moment, for example those of the start state, `model.scene.points(state).positions`.
        skin: which nodes each splat follows, see `DrivenScene`.
        k: nodes that a splat follows by default.
        chain: the points are a chain, in their order, as the vertices of a rod.
        node_ids: int (N,), which object each point belongs to.
    """

    def __init__(
        self,
        model: TransitionModel[S],
        splats: Splats | Mapping[str, Tensor],
        nodes: Tensor,
        *,
        skin: Skinned | None = None,
        k: int | None = None,
        chain: bool = False,
        node_ids: Tensor | None = None,
    ) -> None:
        super().__init__(model)
        self.scene: DrivenScene = DrivenScene(model.scene, splats, nodes, skin=skin, k=k, chain=chain, node_ids=node_ids)

    def config(self) -> dict[str, Any]:
        return {"model": self.model} | {name: value for name, value in self.scene.config().items() if name != "scene"}

    def roll(self, state: S, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        return replace(self.model.roll(state, actions, noise=noise), scene=self.scene)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        self.scene = self.scene.cast(fn)
        return moved
