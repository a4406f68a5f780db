"""Who uses a prediction, and what they are given: abstract roles and the small containers that pass between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .noise import Noise
from .plan import Plan
from .scene import Scene, ViewMissing
from .spec import Action
from .state import State
from .transition import Trajectory, TransitionModel

S = TypeVar("S", bound=State)


class ViewReader:
    """Something that reads trajectories through views; `needs` names them, so that a planner can refuse before it starts."""

    needs: frozenset[str] = frozenset()


class Objective(ViewReader, ABC):
    """A cost of a trajectory; lower is better.

    Objectives add (`a + b`) and scale (`2.0 * a`). Goals carry the leading problem axis (B, ...) and align from the left with the trajectory's (B, S, E).
    An objective with `reads_members` sees all members at once: it maps a trajectory of batch (B, S, E) to (B, S), and no risk measure is applied to it.
    """

    reads_members: bool = False

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Cost (*B) of a trajectory of batch axes *B."""

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return WeightedSum(((1.0, self), (1.0, other)))

    def __radd__(self, other: int) -> Objective:
        if other != 0:
            return NotImplemented
        return self  # `sum` starts at 0

    def __mul__(self, weight: float) -> Objective:
        return WeightedSum(((float(weight), self),))

    __rmul__ = __mul__

    @property
    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """Weight and part of each term of a sum; a plain objective is one term."""
        return ((1.0, self),)


class WeightedSum(Objective):
    """The sum of weighted objectives; built by `+` and `*`."""

    def __init__(self, parts: Sequence[tuple[float, Objective]]) -> None:
        self._terms = tuple((weight * inner, term) for weight, part in parts for inner, term in part.terms)
        self.needs = frozenset().union(*(term.needs for _, term in self._terms))
        self.reads_members = any(term.reads_members for _, term in self._terms)

    @property
    def terms(self) -> tuple[tuple[float, Objective], ...]:
        return self._terms

    def __call__(self, trajectory: Trajectory) -> Tensor:
        weight, first = self._terms[0]
        total = weight * first(trajectory)
        for weight, term in self._terms[1:]:
            total = total + weight * term(trajectory)
        return total


class Constraint(ViewReader, ABC):
    """Conditions on a trajectory, satisfied where the value is at most 0."""

    names: tuple[str, ...] = ()  # what each of the C conditions asks for, in words, so that a plan can say what rejected its candidates
    per_step: bool = False  # the value is the largest of the trajectory's one-step pieces, which is quicker to search for the step that violates first

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Violations (*B, C) of C conditions, in the unit of the condition."""

    def conditions(self, count: int) -> tuple[str, ...]:
        """Each of `count` conditions in words: `names` where they are given, else the class name, numbered from 1 where there are several.

        Raises:
            ValueError: if `names` are given, but not as many.
        """
        if self.names and len(self.names) != count:
            raise ValueError(f"{type(self).__name__} has {len(self.names)} names for {count} conditions; give one each or none.")
        kind = type(self).__name__
        return tuple(self.names) or ((kind,) if count == 1 else tuple(f"{kind} {place + 1}" for place in range(count)))


def require_views(scene: Scene, *readers: ViewReader) -> None:
    """Refuse readers whose views a scene does not offer.

    Raises:
        ViewMissing: names the reader, the view and the scene.
    """
    for reader in readers:
        missing = sorted(reader.needs - scene.views)
        if missing:
            raise ViewMissing(
                f"{type(reader).__name__} needs the view {missing[0]!r}, which {type(scene).__name__} does not offer (it offers "
                f"{', '.join(sorted(scene.views))}); use another objective or give the scene a decoder for it."
            )


@dataclass(frozen=True)
class Task:
    """What is wanted, for policies and forecasters that are conditioned on it."""

    language: str | None = None
    goal: Any = None  # a State, or a tensor (B, D) in the coordinates of the scene


@dataclass(frozen=True)
class Observation:
    """What sensors gave at one instant; every field may be missing. Images by camera name."""

    time: float  # [s]
    images: Mapping[str, Tensor] = field(default_factory=dict)  # (*B, height, width, 3) in [0, 1]
    depth: Mapping[str, Tensor] = field(default_factory=dict)  # (*B, height, width) [m], NaN where unknown
    intrinsics: Mapping[str, Tensor] = field(default_factory=dict)  # (*B, 3, 3) [px]
    world_from_camera: Mapping[str, Tensor] = field(default_factory=dict)  # (*B, 4, 4)
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # (*B, height, width) int64 object ids, 0 is background
    proprioception: Mapping[str, Tensor] = field(default_factory=dict)  # by name, (*B, D), SI units


@dataclass(frozen=True)
class Belief(Generic[S]):
    """Weighted particles over states, at a time.

    Raises:
        ValueError: if the weights do not fit the states or no particle has weight.
    """

    states: S  # batch_size (*B, E)
    log_weights: Tensor  # (*B, E), any offset
    time: float = 0.0  # [s]

    def __post_init__(self) -> None:
        if tuple(self.log_weights.shape) != tuple(self.states.batch_size) or self.log_weights.ndim < 1:
            raise ValueError(f"Belief needs one log weight per particle: states {tuple(self.states.batch_size)}, weights {tuple(self.log_weights.shape)}.")
        if not bool(torch.isfinite(self.log_weights.max(-1).values).all()):
            raise ValueError("Belief has a problem in which no particle has a finite weight.")

    @classmethod
    def certain(cls, state: S, *, time: float = 0.0) -> Belief[S]:
        """One particle that is sure of `state` (*B)."""
        states = state.unsqueeze(len(state.batch_size))
        return cls(states, torch.zeros(tuple(states.batch_size)), time)

    @property
    def weights(self) -> Tensor:
        """Normalised weights (*B, E)."""
        return self.log_weights.softmax(-1)

    def resample(self, particles: int, noise: Noise) -> S:
        """Equally weighted states (*B, particles) by systematic resampling (Douc and Cappe, 2005). *B is (B,)."""
        problems, count = self.log_weights.shape
        if particles == count and bool((self.log_weights == self.log_weights[..., :1]).all()):
            return self.states
        ticks = (torch.arange(particles, dtype=torch.float64) + noise.uniform((problems, 1)).double()) / particles
        edges = self.log_weights.double().softmax(-1).cumsum(-1).cpu()
        index = torch.searchsorted(edges, ticks, right=True).clamp_max(count - 1).to(self.log_weights.device)
        return self.states[torch.arange(problems, device=index.device)[:, None], index]


class Planner(ABC):
    """Finds actions that make an objective small under a model. It knows the model only through its contract."""

    @property
    def stride(self) -> int:
        """Steps from one plan to the next that the planner is made for."""
        return 1

    @abstractmethod
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
        elapsed: int = 1,
    ) -> Plan:
        """Plan for B problems at once.

        Args:
            model: any transition model.
            state: batch_size (B,), or a belief over (B, E).
            objective: what is to be made small.
            constraints: what must hold.
            previous: the plan to start from.
            seed: int64 (B,), or an int that means `seed + arange(B)`.
            active: bool (B,), the problems that are planned anew; the others go on with the previous plan. None: all.
            elapsed: steps since the previous plan.

        Raises:
            ViewMissing: if the model's scene lacks a view that the objective or a constraint needs.
        """


class Estimator(ABC, Generic[S]):
    """Turns observations into beliefs."""

    @abstractmethod
    def update(self, observation: Observation, belief: Belief[S] | None, action: Action | None) -> Belief[S]:
        """The belief after an observation; `belief` is None at the start, `action` is what was done since the last one."""


class Forecaster(ABC, Generic[S]):
    """Predicts futures without actions, from language or a goal."""

    @abstractmethod
    def forecast(self, state: S, task: Task, horizon: int) -> Trajectory:
        """A trajectory with batch axes *B, or (*B, E) where several futures are sampled."""


@dataclass(frozen=True)
class Subgoals:
    """Intermediate goals of B problems, in the order in which they are to be reached; the last valid one is the goal itself where there is one.

    Raises:
        ValueError: if the shapes do not fit.
    """

    coordinates: Tensor  # (B, G, D) of the scene
    valid: Tensor  # bool (B, G), False behind the last one
    reachable: Tensor  # bool (B,), False where no way was found and the goal stands alone

    def __post_init__(self) -> None:
        shape = tuple(self.coordinates.shape)
        if len(shape) != 3 or tuple(self.valid.shape) != shape[:2] or tuple(self.reachable.shape) != shape[:1]:
            got = f"{shape}, {tuple(self.valid.shape)} and {tuple(self.reachable.shape)}"
            raise ValueError(f"Subgoals need coordinates (B, G, D), valid (B, G) and reachable (B,), got {got}.")

    @property
    def count(self) -> Tensor:
        """How many each problem has, int64 (B,)."""
        return self.valid.sum(-1)


class SubgoalGenerator(ABC, Generic[S]):
    """Proposes intermediate goals on the way to a far one."""

    @abstractmethod
    def propose(self, state: S, task: Task) -> Subgoals:
        """Subgoals of B problems.

        Args:
            state: batch_size (B,).
            task: what is wanted; its `goal` a state (B,), or coordinates (B, D) of the scene.
        """

    def propose_again(self, state: S, task: Task, failed: Tensor) -> Subgoals:
        """Subgoals for problems that did not come to those they had; by default those that are proposed anyway.

        Args:
            state: batch_size (B,).
            task: as of `propose`.
            failed: (B, F, D) subgoals that were not reached, NaN where there are fewer than F.
        """
        return self.propose(state, task)


class Grounding(ABC):
    """Reads the truth of ground atoms from any geometric view."""

    needs: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()  # of the M atoms

    @abstractmethod
    def __call__(self, scene: Scene, state: State) -> Tensor:
        """Probability of each atom, (*B, M) in [0, 1]."""

    def of(self, trajectory: Trajectory) -> Tensor:
        """(*B, H+1, M) along a trajectory."""
        return self(trajectory.scene, trajectory.states)


class InverseModel(ABC, Generic[S]):
    """Infers the action between two states."""

    @abstractmethod
    def infer(self, state: S, next_state: S) -> Tensor:
        """The action, (*B, A)."""


class Policy(ABC, Generic[S]):
    """Proposes actions for a task."""

    @abstractmethod
    def act(self, belief: Belief[S], task: Task) -> Tensor:
        """A sequence of actions, (*B, H, A)."""
