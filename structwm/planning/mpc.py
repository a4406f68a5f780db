"""Closed-loop model predictive control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Plan
from structwm.noise import Noise, problem_seeds
from structwm.state import State
from structwm.transition import TransitionModel

from .sampling import SamplingPlanner

Proposer = Callable[[State, Noise], Tensor]


class MPC:
    """Plans, gives the first action, and plans again from what is seen next, for B problems at once.

    Args:
        model: the model that is planned with.
        planner: a sampling planner.
        objective: what is to be made small.
        constraints: what must hold.
        seed: int64 (B,), or an int that means `seed + arange(B)`.
        latency: control steps by which the world runs behind: the actions already sent but not yet felt are rolled out before planning.
        propose: from a state (B,) and noise to action sequences (B, P, H, A) that every plan also considers.
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        planner: SamplingPlanner,
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        seed: int | Tensor = 0,
        latency: int = 0,
        propose: Proposer | None = None,
    ) -> None:
        if latency < 0:
            raise ValueError(f"MPC.latency is a number of control steps, 0 or more, got {latency}.")
        self.model, self.planner, self.objective, self.constraints = model, planner, objective, tuple(constraints)
        self.seed, self.latency, self.propose = seed, latency, propose
        self.reset()

    def reset(self) -> None:
        """Forget the last plan and the actions under way."""
        self.plan: Plan | None = None
        self._pending: list[Tensor] = []

    def act(self, state: State | Belief[Any]) -> Tensor:
        """The action (B, A) to send now, for the state (B,) or belief (B, E) that was observed now."""
        now = self._advance(state) if self._pending else state
        proposals = None
        if self.propose is not None:
            point = cast(State, now.states[:, 0]) if isinstance(now, Belief) else now
            index = 0 if self.plan is None else self.plan.index + 1
            proposals = self.propose(point, Noise(problem_seeds(self.seed, point.batch_size[0]), step=index).child(3))
        self.plan = self.planner.plan(
            self.model, now, self.objective, constraints=self.constraints, previous=self.plan, seed=self.seed, proposals=proposals
        )
        action = self.plan.actions[:, 0]
        if self.latency:
            self._pending = [*self._pending, action][-self.latency :]
        return action

    def _advance(self, state: State | Belief[Any]) -> State | Belief[Any]:
        """Roll the actions under way out."""
        actions = torch.stack(self._pending, dim=1)
        with torch.no_grad():
            if not isinstance(state, Belief):
                return cast(State, self.model.rollout(state, actions).states[..., -1])
            spread = actions if self.model.spec.members > 1 else actions[:, None].expand(-1, state.states.batch_size[1], -1, -1)
            trajectory = self.model.rollout(state.states, spread)
            return Belief(trajectory.states[..., -1], state.log_weights, state.time + float(trajectory.times[..., -1].max()))
