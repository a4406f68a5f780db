"""Planning in chunks: one decision for several steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Planner
from structwm.noise import Noise
from structwm.plan import Plan
from structwm.spec import Action
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel
from structwm.wrappers import ModelWrapper

from .hybrid import Hybrid
from .mppi import MPPI
from .sampling import SamplingPlanner


class Held(ModelWrapper[Any]):
    """A model whose actions are each held over `length` of its steps; its trajectories show every step, so that nothing between decisions goes unseen."""

    def __init__(self, model: TransitionModel[Any], length: int) -> None:
        super().__init__(model)
        self.length = length

    def roll(self, state: Any, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        return self.model.roll(state, held(actions, self.length, self.model.spec.action.kind), noise=noise)


def held(actions: Any, length: int, kind: str = "continuous") -> Any:
    """Actions (*B, H, A), or int64 (*B, H), each repeated over `length` steps."""
    return actions.repeat_interleave(length, dim=-2 if kind == "continuous" else -1)


@dataclass(frozen=True, kw_only=True)
class ActionChunks(Planner):
    """Plans with decisions that each hold for `length` steps, as policies do that act in chunks (Zhao et al., RSS 2023) and planners with frames skipped.

    A horizon of as many steps has fewer unknowns, and looks farther at the same cost. The trajectory is that of every step: constraints hold between decisions
    as well. The plan gives all steps; carry a whole number of chunks out before the next plan (`MPC(every=length)`).
    """

    search: SamplingPlanner | Hybrid = field(default_factory=MPPI)  # plans the decisions; its horizon counts them
    length: int = 4  # steps of a decision

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"ActionChunks.length must be at least 1, got {self.length}.")
        if not isinstance(self.search, SamplingPlanner | Hybrid):  # a tree search looks between steps, where decisions are held
            raise ValueError(f"ActionChunks.search is a sampling planner or Hybrid, got {type(self.search).__name__}.")

    @property
    def horizon(self) -> int:
        """H, in steps of the model."""
        return self.search.horizon * self.length

    @property
    def stride(self) -> int:
        return self.length

    @torch.no_grad()
    def plan(
        self,
        model: TransitionModel[Any],
        state: State | Belief[Any],
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        previous: Plan | None = None,
        seed: int | Tensor = 0,
        active: Tensor | None = None,
        elapsed: int | None = None,
    ) -> Plan:
        """See `Planner.plan`.

        Raises:
            ValueError: if the previous plan was carried out for a time that is no whole number of chunks, or is none of chunks.
        """
        steps = self.length if elapsed is None else elapsed
        if previous is not None:
            if steps % self.length:
                raise ValueError(f"ActionChunks of {self.length} steps goes on after whole chunks, not after {steps} steps; see MPC's `every`.")
            if not isinstance(previous.sampler, Decisions):
                raise ValueError("The previous plan does not fit this planner: it is none of ActionChunks; pass previous=None.")
            previous = replace(previous, actions=previous.actions[:, :: self.length], sampler=previous.sampler.inner)  # type: ignore[index]
        kind = model.spec.action.kind
        inner = self.search.plan(
            Held(model, self.length),
            state,
            objective,
            constraints=constraints,
            previous=previous,
            seed=seed,
            active=active,
            elapsed=steps // self.length,
        )
        predict = inner.predict
        return replace(
            inner,
            actions=held(inner.actions, self.length, kind),
            sampler=Decisions(inner.sampler, self.length),
            predict=lambda actions: predict(actions[:, :: self.length]),  # type: ignore[index]
        )


@dataclass(frozen=True)
class Decisions:
    """The parameters of the planner of decisions."""

    inner: Any
    length: int

    def around(self, actions: Any) -> Decisions:
        """The same around other actions, of which the first of each chunk counts."""
        return replace(self, inner=self.inner.around(actions[:, :: self.length]))
