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

LATENCY_LIMIT = 32  # control steps
Proposer = Callable[[Any, Noise], Tensor]


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
        if not 0 <= latency <= LATENCY_LIMIT:
            raise ValueError(f"MPC.latency is a number of control steps from 0 to {LATENCY_LIMIT}, got {latency}.")
        self.model, self.planner, self.objective, self.constraints = model, planner, objective, tuple(constraints)
        self.seed, self.latency, self.propose = seed, latency, propose
        self.reset()

    def reset(self) -> None:
        """Forget the last plan and the actions under way."""
        self.plan: Plan | None = None
        self.start: State | Belief[Any] | None = None  # where the last plan began: the observed state with the actions under way rolled out
        self._sent: list[Tensor] = []

    def act(self, state: State | Belief[Any]) -> Tensor:
        """The action (B, A) to send now, for the state (B,) or belief (B, E) that was observed now. `latency` may change between calls."""
        self.start = now = self._advance(state)
        proposals = None
        if self.propose is not None:
            point = cast(State, self.model.scene.average(now.states, 1)) if isinstance(now, Belief) else now
            index = 0 if self.plan is None else self.plan.index + 1
            proposals = self.propose(point, Noise(problem_seeds(self.seed, point.batch_size[0]), step=index).child(3))
        self.plan = self.planner.plan(self.model, now, self.objective, constraints=self.constraints, previous=self.plan, seed=self.seed, proposals=proposals)
        action = self.plan.actions[:, 0]
        self._sent = [*self._sent, action][-LATENCY_LIMIT:]
        return action

    def replace_last(self, action: Tensor) -> None:
        """Say that (B, A) was sent in place of the last action given, for example because a filter or a stop rule overrode it."""
        self._sent[-1] = action

    def _advance(self, state: State | Belief[Any]) -> State | Belief[Any]:
        """Roll the actions under way out."""
        pending = self._sent[len(self._sent) - min(self.latency, len(self._sent)) :]
        if not pending:
            return state
        actions = torch.stack(pending, dim=1)
        with torch.no_grad():
            if not isinstance(state, Belief):
                members = self.model.spec.members
                if members == 1:
                    return cast(State, self.model.rollout(state, actions).states[..., -1])
                parted = self.model.rollout(state.unsqueeze(1).expand(state.batch_size[0], members), actions)  # members part ways meanwhile
                following = parted.states[..., -1]
                return Belief(following, torch.zeros(tuple(following.batch_size)), 0.0)
            spread = actions if self.model.spec.members > 1 else actions[:, None].expand(-1, state.states.batch_size[1], -1, -1)
            trajectory = self.model.rollout(state.states, spread)
            return Belief(trajectory.states[..., -1], state.log_weights, state.time + float(trajectory.times[..., -1].max()))
