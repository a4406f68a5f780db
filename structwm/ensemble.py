"""Uncertainty as an axis: several models, or one model under many parameter draws, that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .noise import Noise
from .spec import Action
from .state import State, fields_of
from .transition import Outcome, Trajectory, TransitionModel

S = TypeVar("S", bound=State)


class Propagation(Enum):
    """How E particles move through E members (Chua et al., NeurIPS 2018, section 4)."""

    FIXED_MEMBER = "fixed_member"  # particle e follows member e to the end: epistemic uncertainty stays coherent in time
    RANDOM_MEMBER = "random_member"  # at each step the particles are dealt to the members anew
    MEAN = "mean"  # after each step all particles become their mean


class Ensemble(TransitionModel[S]):
    """E members with one contract: a model with `spec.members = E`.

    Args:
        members: models with equal specs, one per member; or a single model that carries members itself, such as a twin under E parameter draws.
        propagation: how particles move through members. `RANDOM_MEMBER` deals at random when it is given noise, else it acts as `FIXED_MEMBER`.
    """

    def __init__(self, members: Sequence[TransitionModel[S]] | TransitionModel[S], *, propagation: Propagation | str = Propagation.FIXED_MEMBER) -> None:
        super().__init__()
        self.propagation = Propagation(propagation)
        if not isinstance(members, TransitionModel) and len(members) == 1:
            members = members[0]
        if isinstance(members, TransitionModel):
            self.joint: TransitionModel[S] | None = members
            self.members = nn.ModuleList()
            first, count = members, members.spec.members
        else:
            self.joint = None
            self.members = nn.ModuleList(members)
            if not members:
                raise ValueError("Ensemble needs at least one member, got none.")
            first, count = members[0], len(members)
            for position, member in enumerate(members):
                if member.spec != first.spec or member.spec.members != 1:
                    raise ValueError(f"Ensemble needs members with one and the same spec and no members of their own; member {position} differs from member 0.")
        traits = first.spec.traits
        if self.propagation is Propagation.RANDOM_MEMBER:
            traits = replace(traits, stochastic=True)
        self.spec = replace(first.spec, members=count, traits=traits)
        self.scene = first.scene

    def config(self) -> dict[str, Any]:
        return {"members": self.joint if self.joint is not None else list(self.members), "propagation": self.propagation}

    def overrides(self, method: str) -> bool:
        models: list[Any] = [self.joint] if self.joint is not None else list(self.members)
        return any(model.overrides(method) for model in models)

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        if self.spec.members == 1:
            return self._advance(state, action, noise)
        count, axis = self.spec.members, len(state.batch_size) - 1
        deal = None
        if self.propagation is Propagation.RANDOM_MEMBER and noise is not None:
            deal = noise.child(count).sharing().uniform((noise.seeds.shape[0], count)).argsort(-1)  # its axis 1 is that of members
            deal = deal.to(_device(state)).reshape(deal.shape[0], *(1,) * (axis - 1), count).expand(tuple(state.batch_size))
            state = _gather_members(state, deal)
        following = self._advance(state, action, noise)
        if deal is not None:
            following = _gather_members(following, deal.argsort(-1))
        if self.propagation is Propagation.MEAN:
            mean = self.scene.average(following, axis)
            following = mean.unsqueeze(axis).expand(*following.batch_size).clone()  # type: ignore[assignment]
        return following

    def _advance(self, state: S, action: Action, noise: Noise | None) -> S:
        if self.joint is not None:
            return self.joint.step(state, action, noise=noise)
        sources = [None if noise is None else noise.child(e) for e in range(self.spec.members)]
        return self._each(lambda e, member, part: member.step(part, action, noise=sources[e]), state)

    def _each(self, call: Any, *states: Any) -> Any:
        """`call(e, member, *states of member e)` for every member, stacked on the member axis."""
        axis = len(states[0].batch_size) - 1
        parts = zip(*(state.unbind(axis) for state in states), strict=True)
        return torch.stack([call(e, member, *part) for e, (member, part) in enumerate(zip(self.members, parts, strict=True))], dim=axis)

    def roll(self, state: S, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        if self.joint is not None and (self.propagation is Propagation.FIXED_MEMBER or self.spec.members == 1):
            return self.joint.roll(state, actions, noise=noise)  # keeps fused rollouts
        return super().roll(state, actions, noise=noise)

    def duration(self, state: S, action: Action, next_state: S) -> Tensor:
        if self.joint is not None:
            return self.joint.duration(state, action, next_state)
        return self._each(lambda e, member, a, b: member.duration(a, action, b), state, next_state)

    def applicable(self, state: S) -> Tensor | None:
        if self.joint is not None:
            return self.joint.applicable(state)
        return self._each(lambda e, member, part: member.applicable(part), state) if self.overrides("applicable") else None

    def outcome(self, state: S, action: Action, next_state: S) -> Outcome | None:
        if self.joint is not None:
            return self.joint.outcome(state, action, next_state)
        if not self.overrides("outcome"):
            return None
        axis = len(state.batch_size) - 1
        parts = zip(self.members, state.unbind(axis), next_state.unbind(axis), strict=True)
        each = [cast(Any, member).outcome(a, action, b) for member, a, b in parts]
        predicted = self.spec.traits.predicts
        return Outcome(**{name: torch.stack([getattr(outcome, name) for outcome in each], dim=axis) for name in predicted})

    def value(self, state: S) -> Tensor | None:
        if self.joint is not None:
            return self.joint.value(state)
        return self._each(lambda e, member, part: member.value(part), state) if self.overrides("value") else None


def disagreement(trajectory: Trajectory) -> Tensor:
    """How far members disagree, (*B, H+1) [m]: the root mean square distance of each point from its mean over members, averaged over points.

    The last batch axis of the trajectory is the member axis E; the points view is read, so the figure is in metres for every family.
    """
    points = trajectory.points()
    positions, seen = points.positions, None if points.mask is None else points.mask.all(dim=-3)  # (*B, E, H+1, N, 3), (*B, H+1, N)
    if seen is not None:
        positions = torch.where(seen.unsqueeze(-3).unsqueeze(-1), positions, 0.0)
    away = positions - positions.mean(dim=-4, keepdim=True)
    spread = torch.linalg.vector_norm(away, dim=(-4, -1)) / away.shape[-4] ** 0.5  # without a root of zero where members agree
    return spread.mean(-1) if seen is None else spread.sum(-1) / seen.sum(-1)


def _gather_members(state: Any, index: Tensor) -> Any:
    """States (*B, E) with their members in the order of `index` (*B, E)."""
    axis = index.ndim - 1

    def take(value: Tensor) -> Tensor:
        wide = index.reshape(*index.shape, *(1,) * (value.ndim - index.ndim)).expand(*index.shape, *value.shape[index.ndim :])
        return value.gather(axis, wide)

    return type(state)(**{name: take(value) for name, value in fields_of(state).items()}, batch_size=state.batch_size)


def _device(state: State) -> torch.device:
    return next(iter(fields_of(state).values())).device
