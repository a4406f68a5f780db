"""What an action filter checks of a predicted trajectory: each check gives a value that is higher the worse, and has a limit."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Self

import torch
from torch import Tensor

from structwm.ensemble import disagreement
from structwm.interfaces import Constraint, ViewReader
from structwm.planning.risk import Risk
from structwm.transition import Trajectory


class Reason(Enum):
    """Why a candidate is rejected."""

    INVALID = "invalid"
    COLLISION = "collision"
    CONSTRAINT = "constraint"
    OUT_OF_DISTRIBUTION = "out of distribution"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True)
class Measured:
    """What a check finds of S candidates for each of B problems, after risk; NaN is taken for infinite."""

    value: Tensor  # (B, S), of the whole trajectory
    steps: Tensor  # (B, S, H), of each step by itself


class Check(ViewReader, ABC):
    """A value of each candidate that may not exceed a limit.

    `limit` is None until it is given or learnt by `ActionFilter.calibrated`. `needs` names the views it reads.
    """

    reason: Reason
    name: str
    unit: str = ""
    limit: float | None = None
    learnt: bool = False  # whether the limit comes from safe behaviour; else from a margin

    @abstractmethod
    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        """Of a trajectory of batch axes (B, S, E); `risk` takes the E members' values to one."""

    @abstractmethod
    def words(self, value: float, limit: float) -> str:
        """What a value above the limit means."""

    def limited(self, limit: float) -> Self:
        """The same check with another limit."""
        other = copy.copy(self)
        other.limit = float(limit)
        return other

    def quantity(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.4g} {self.unit}".strip()


def over_members(values: Tensor, risk: Risk) -> Tensor:
    """(B, S, E, ...) to (B, S, ...) by a risk measure of (B, S, E)."""
    if values.shape[2] == 1:
        return values[:, :, 0]
    last = values.movedim(2, -1)
    return risk(last.reshape(last.shape[0], -1, last.shape[-1])).reshape(last.shape[:-1])


class Invalid(Check):
    """Built into every filter: actions outside the space, inapplicable actions, and predictions that are not finite.

    What is wrong with the actions is told by the filter, which repairs them before it rolls them out.
    """

    reason, name, limit = Reason.INVALID, "invalid", 0.0

    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        wrong = ~trajectory.valid[..., 1:]
        for value in trajectory.states.values():
            if value is not None and value.is_floating_point():
                finite = value.isfinite().reshape(*trajectory.states.batch_size, -1).all(-1)
                wrong = wrong | ~(finite[..., 1:] & finite[..., :-1])
        steps = wrong.any(2).to(torch.float32)
        return Measured(steps.amax(-1), steps)

    def words(self, value: float, limit: float) -> str:
        return "the action is outside its space or not applicable, or the prediction is not finite"


class Collision(Check):
    """Points come nearer to the scene's solids than a margin, by its view `signed_distance`; the value is minus the clearance [m].

    Which is which depends on the scene: obstacles as points around a moving solid (posts beside a slider, each a centre and a radius), or the points of a
    robot around solids that the scene knows (`points=Trajectory.points` in words: a function of the trajectory). Instants after the start count, and nothing
    between them.

    Args:
        points: (Q, 3), or (B, Q, 3) by problem [m], world frame; or a function of the trajectory of batch *B to (*B, H+1, Q, 3).
        radii: of spheres around the points [m], one or (Q,).
        margin: clearance that is asked for [m].
        name: in explanations.
    """

    reason, unit = Reason.COLLISION, "m"
    needs = frozenset({"signed_distance"})

    def __init__(self, points: Tensor | Callable[[Trajectory], Tensor], *, radii: Tensor | float = 0.0, margin: float = 0.0, name: str = "collision") -> None:
        if isinstance(points, Tensor) and (points.ndim not in (2, 3) or points.shape[-1] != 3):
            raise ValueError(f"Collision needs points (Q, 3) or (B, Q, 3) [m], got shape {tuple(points.shape)}.")
        self.points, self.radii, self.name, self.limit = points, torch.as_tensor(radii, dtype=torch.float32), name, -float(margin)

    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        clearance = trajectory.signed_distance(self._placed(trajectory)) - self.radii.to(trajectory.times)
        steps = over_members(-clearance[..., 1:, :].amin(-1), risk)
        return Measured(steps.amax(-1), steps)

    def moved(self, points: Tensor | Callable[[Trajectory], Tensor], *, radii: Tensor | float | None = None) -> Self:
        """The same check and margin with obstacles elsewhere."""
        other = copy.copy(self)
        other.points, other.radii = points, self.radii if radii is None else torch.as_tensor(radii, dtype=torch.float32)
        return other

    def _placed(self, trajectory: Trajectory) -> Tensor:
        if not isinstance(self.points, Tensor):
            return self.points(trajectory)
        like = next(value for value in trajectory.states.values() if value.is_floating_point())
        points, batch = self.points.to(like), trajectory.states.batch_size
        if points.ndim == 3:
            points = points.reshape(points.shape[0], *(1,) * (len(batch) - 1), *points.shape[1:])
        return points.expand(*batch, *points.shape[-2:])

    def words(self, value: float, limit: float) -> str:
        reach = f"overlaps an obstacle by {value:.4g} m" if value > 0 else f"comes within {-value:.4g} m of an obstacle"
        return f"{reach}, {-limit:.4g} m is asked for"


class Violation(Check):
    """A `Constraint` of interfaces whose predicted value, plus a margin, is above 0; the largest of its conditions counts.

    The step is the first with which the trajectory so far violates it; of a condition that later steps mend, such as one on the end, the last.

    Args:
        constraint: any.
        margin: added to the predicted value, in the unit of the condition.
        name: in explanations, by default the constraint's class.
        unit: in explanations.
    """

    reason = Reason.CONSTRAINT

    def __init__(self, constraint: Constraint, *, margin: float = 0.0, name: str | None = None, unit: str = "") -> None:
        self.constraint, self.name, self.unit, self.limit = constraint, name or type(constraint).__name__, unit, -float(margin)
        self.needs = constraint.needs

    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        if self.constraint.per_step:
            steps = over_members(self.constraint(pieces(trajectory)), risk).amax(-1)
            return Measured(over_members(self.constraint(trajectory), risk).amax(-1), steps)
        each = [over_members(self.constraint(begin(trajectory, count)), risk).amax(-1) for count in range(1, trajectory.horizon + 1)]
        steps = torch.stack(each, -1).nan_to_num(nan=torch.inf, posinf=torch.inf)
        mended = (steps.diff(dim=-1) < -1e-6 * steps[..., 1:].abs()).any(-1, keepdim=True)
        early = mended & (torch.arange(trajectory.horizon, device=steps.device) < trajectory.horizon - 1)
        return Measured(each[-1], steps.masked_fill(early, -torch.inf))

    def words(self, value: float, limit: float) -> str:
        return f"violates {self.name} by {self.quantity(value - limit)}" + (f", a margin of {self.quantity(-limit)} included" if limit else "")


def begin(trajectory: Trajectory, count: int) -> Trajectory:
    """The first `count` steps."""
    axis = (slice(None),) * len(trajectory.batch_shape)

    def cut(name: str, entries: int) -> Any:
        value = getattr(trajectory, name)
        return None if value is None else value[(*axis, slice(entries))]

    instants = {name: cut(name, count + 1) for name in ("states", "times", "valid", "value")}
    return replace(trajectory, **instants, **{name: cut(name, count) for name in ("actions", "reward", "continue_probability")})


def pieces(trajectory: Trajectory) -> Trajectory:
    """Each step as a trajectory of its own: (*B, H) of one step, from (*B) of H steps."""
    steps, axis = torch.arange(trajectory.horizon, device=trajectory.times.device), len(trajectory.batch_shape)
    pairs = torch.stack((steps, steps + 1), -1)

    def each(value: Any, what: Tensor) -> Any:
        return None if value is None else value[(slice(None),) * axis + (what,)]

    states, times, valid, worth = (each(value, pairs) for value in (trajectory.states, trajectory.times, trajectory.valid, trajectory.value))
    actions, reward, odds = (each(value, steps[:, None]) for value in (trajectory.actions, trajectory.reward, trajectory.continue_probability))
    return replace(trajectory, states=states, actions=actions, times=times, valid=valid, reward=reward, continue_probability=odds, value=worth)


class Uncertainty(Check):
    """Members disagree about what an action does.

    On the points view: the root mean square distance of points from their mean over members [m]. Of scaled coordinates: the largest standard deviation over
    members in units of the coordinate's scale.

    Args:
        scales: by coordinate name, what of its unit counts as 1; None reads the points view.
        limit: in metres or scales; learnt by `ActionFilter.calibrated` where None.
    """

    reason, learnt = Reason.UNCERTAIN, True

    def __init__(self, *, scales: Mapping[str, float] | None = None, limit: float | None = None, name: str = "disagreement") -> None:
        self.scales, self.limit, self.name = dict(scales or {}), limit, name
        self.unit = "scales" if self.scales else "m"
        self.needs = frozenset({"coordinates"} if self.scales else {"points"})

    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        if trajectory.batch_shape[2] < 2:
            raise ValueError("Uncertainty needs a model with members (spec.members > 1) or a belief of several particles, got one; leave this check out.")
        steps = (self._coordinates(trajectory) if self.scales else disagreement(trajectory))[..., 1:]
        return Measured(steps.amax(-1), steps)

    def _coordinates(self, trajectory: Trajectory) -> Tensor:
        names = trajectory.scene.coordinate_names(trajectory.states)
        unknown = sorted(set(self.scales) - set(names))
        if unknown:
            raise ValueError(f"There is no coordinate {unknown[0]!r}; this scene has {', '.join(names)}.")
        mean = trajectory.scene.average(trajectory.states, 2).unsqueeze(2).expand(*trajectory.states.batch_size)
        spread = trajectory.scene.coordinate_difference(trajectory.states, mean).square().mean(2).sqrt()
        scaled = [spread[..., names.index(name)] / scale for name, scale in self.scales.items()]
        return torch.stack(scaled, -1).amax(-1)

    def words(self, value: float, limit: float) -> str:
        return f"members disagree by {self.quantity(value)}, {self.quantity(limit)} is usual"
