"""Closed-loop model predictive control."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Planner
from structwm.noise import Noise, problem_seeds
from structwm.plan import Plan
from structwm.spec import Action, HybridAction
from structwm.state import State
from structwm.transition import TransitionModel

LATENCY_LIMIT = 32  # control steps
Proposer = Callable[[Any, Noise], Tensor]


class MPC:
    """Plans, gives the first action, and plans again from what is seen next, for B problems at once.

    Args:
        model: the model that is planned with.
        planner: any planner.
        objective: what is to be made small.
        constraints: what must hold.
        seed: int64 (B,), or an int that means `seed + arange(B)`.
        latency: control steps by which the world runs behind: the actions already sent but not yet felt are rolled out before planning.
        every: control steps from one plan to the next, by default as the planner is made for; in between the actions of the plan are sent as they are.
        propose: from a state (B,) and noise to action sequences (B, P, H, A) that every plan also considers; for planners that take proposals.

    Raises:
        ValueError: on a latency or a number of steps that cannot be, or proposals for a planner that takes none.
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        planner: Planner,
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        seed: int | Tensor = 0,
        latency: int = 0,
        every: int | None = None,
        propose: Proposer | None = None,
    ) -> None:
        if not 0 <= latency <= LATENCY_LIMIT:
            raise ValueError(f"MPC.latency is a number of control steps from 0 to {LATENCY_LIMIT}, got {latency}.")
        every = planner.stride if every is None else every
        horizon = getattr(planner, "horizon", every)
        if not 1 <= every <= horizon:
            raise ValueError(f"MPC.every is a number of control steps from 1 to the planner's horizon {horizon}, got {every}.")
        if every % planner.stride:
            raise ValueError(f"{type(planner).__name__} decides for {planner.stride} steps at once, so MPC.every is a multiple of that, got {every}.")
        if propose is not None and "proposals" not in inspect.signature(planner.plan).parameters:
            raise ValueError(f"{type(planner).__name__} takes no proposals; leave MPC's propose out.")
        self.model, self.planner, self.objective, self.constraints = model, planner, objective, tuple(constraints)
        self.seed, self.latency, self.every, self.propose = seed, latency, every, propose
        self.reset()

    def reset(self) -> None:
        """Forget the last plan and the actions under way."""
        self.plan: Plan | None = None
        self.start: State | Belief[Any] | None = None  # where the last plan began: the observed state with the actions under way rolled out
        self._sent: list[Action] = []
        self._age = 0  # control steps since the last plan

    def act(self, state: State | Belief[Any], *, time: float | None = None, active: Tensor | None = None) -> Action:
        """The action (B, A) to send now; int64 (B,) where actions are discrete.

        What was done before the first action is not known: where the world is farther behind than actions were given, the state goes forward by those alone.

        Args:
            state: (B,), or a belief over (B, E), as it was observed. `latency` may change between calls.
            time: of now [s]; a belief whose own time lies behind it is taken forward by the steps between, in place of `latency`.
            active: bool (B,), the problems that are planned anew; the others go on with their last plan. None: all.

        Raises:
            ValueError: if a belief is of after `time`, or of more than `LATENCY_LIMIT` steps before it, or the model's steps have no fixed duration.
        """
        behind = self.latency if time is None or not isinstance(state, Belief) else self._steps_behind(state, time)
        self.start = now = self._advance(state, behind)
        if self.plan is None or self._age + 1 >= self.every or active is not None:
            extra: dict[str, Any] = {}
            if self.propose is not None:
                point = self._point(now)
                extra["proposals"] = self.propose(point, self._noise(point.batch_size[0]).child(3))
            self.plan = self.planner.plan(
                self.model,
                now,
                self.objective,
                constraints=self.constraints,
                previous=self.plan,
                seed=self.seed,
                active=active,
                elapsed=self._age + 1 if self.plan is not None else 1,
                **extra,
            )
            self._age = 0
        else:
            self._age += 1
        action = _step_of(self.plan.actions, self._age)
        self._sent = [*self._sent, action][-LATENCY_LIMIT:]
        return action

    @property
    def ahead(self) -> Action:
        """The actions of the last plan from the one last given on, (B, H - k, A) k steps after it was made.

        Raises:
            RuntimeError: before the first plan.
        """
        if self.plan is None:
            raise RuntimeError("MPC has no plan yet; call act(state) first.")
        return self.plan.actions[:, self._age :]  # type: ignore[index]

    def replace_last(self, action: Action) -> None:
        """Say that (B, A) was sent in place of the last action given, for example because a filter or a stop rule overrode it.

        Raises:
            RuntimeError: before the first action.
        """
        if not self._sent:
            raise RuntimeError("MPC has given no action that could be replaced; call act(state) first.")
        self._sent[-1] = action

    def _steps_behind(self, belief: Belief[Any], time: float) -> int:
        dt = self.model.spec.dt
        if dt is None:
            raise ValueError(f"MPC cannot take a belief of {belief.time} s forward to {time} s: {type(self.model).__name__} has steps of no fixed duration.")
        steps = round((time - belief.time) / dt)
        if not 0 <= steps <= LATENCY_LIMIT:
            raise ValueError(f"MPC takes beliefs up to {LATENCY_LIMIT} steps of {dt} s forward; this one is of {belief.time} s, and it is {time} s.")
        return steps

    def _advance(self, state: State | Belief[Any], behind: int) -> State | Belief[Any]:
        """Roll the actions under way out."""
        pending = self._sent[len(self._sent) - min(behind, len(self._sent)) :]
        if not pending:
            return state
        axis = 1
        actions: Any = torch.stack(pending, dim=axis)  # type: ignore[arg-type]
        members = self.model.spec.members
        with torch.no_grad():
            if not isinstance(state, Belief):
                if members == 1:
                    return cast(State, self.model.rollout(state, actions).states[..., -1])
                parted = state if len(state.batch_size) == 2 else state.unsqueeze(1).expand(state.batch_size[0], members)
                following = self.model.rollout(parted, actions).states[..., -1]  # members part ways meanwhile
                return Belief(following, torch.zeros(tuple(following.batch_size)), 0.0)
            states, weights = state.states, state.log_weights
            if members == 1:
                particles = states.batch_size[1]
                shape = actions.batch_size if isinstance(actions, HybridAction) else actions.shape
                actions = actions.unsqueeze(1).expand(shape[0], particles, *shape[1:])
            else:  # each particle goes on with one member
                states = state.resample(members, self._noise(states.batch_size[0]).child(4))
                weights = torch.zeros(tuple(states.batch_size))
            trajectory = self.model.rollout(states, actions)
            return Belief(trajectory.states[..., -1], weights, state.time + float(trajectory.times[..., -1].max()))

    def _noise(self, problems: int) -> Noise:
        """Of the next plan."""
        return Noise(problem_seeds(self.seed, problems), step=0 if self.plan is None else self.plan.index + 1)

    def _point(self, start: State | Belief[Any]) -> State:
        """The mean state (B,) of particles by their weights, or of members."""
        states: Any = start
        if isinstance(start, Belief):
            problems, particles = start.states.batch_size
            states = start.resample(particles, self._noise(problems).child(5))
        return cast(State, self.model.scene.average(states, 1) if len(states.batch_size) == 2 else states)


def _step_of(actions: Action, step: int) -> Action:
    """The action of one step of (B, H, ...)."""
    return actions[:, step]  # type: ignore[index]
