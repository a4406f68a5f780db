"""Sampling planners of continuous actions: a normal distribution around an action sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.plan import Plan
from structwm.spec import ActionSpec
from structwm.transition import TransitionModel

from .sampling import SamplingPlanner
from .shapes import Spline, repeated, shaped, spline_shape


@dataclass(frozen=True)
class Gaussian:
    """A sampler's parameters: a normal distribution around an action sequence."""

    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    wide: Tensor  # (B, H, A), the std with which a plan starts

    def around(self, actions: Tensor) -> Gaussian:
        """The same distribution around other actions."""
        return replace(self, mean=actions)

    def where(self, problems: Tensor, other: Gaussian) -> Gaussian:
        """This distribution in the `problems`, bool (B,), and another one elsewhere."""
        chosen = problems[:, None, None]
        return replace(self, mean=torch.where(chosen, self.mean, other.mean), std=torch.where(chosen, self.std, other.std))


@dataclass(frozen=True, kw_only=True)
class GaussianPlanner(SamplingPlanner):
    """Moves a normal distribution over action sequences towards the cheap ones. Subclasses implement `weights` and `update`."""

    std: float = 0.5  # exploration at the start of a plan, as a fraction of half the action range; larger explores more
    narrow: float = 1.0  # candidates explore with stds from `std` down to this share of it, evenly in the logarithm: below 1 searches far and near at once
    knots: int | None = None  # noise is drawn at so many knots of a spline; fewer explore smoother sequences; None: one per step
    spline: Spline = "linear"  # through the knots: zero (held), linear or cubic
    tail: Literal["hold", "zero"] = "hold"  # last action of a plan that moved up by a step: the one before again, or 0, which stops what velocities command

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not self.std > 0 or (self.knots is not None and not 1 <= self.knots <= self.horizon):
            raise ValueError(f"{name} needs std > 0 and 1 <= knots <= horizon, got std {self.std} and knots {self.knots}.")
        if not 0 < self.narrow <= 1:
            raise ValueError(f"{name}.narrow is a share above 0 and at most 1, got {self.narrow}.")
        for key, allowed in (("tail", ("hold", "zero")), ("spline", ("zero", "linear", "cubic"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{name}.{key} is {' or '.join(map(repr, allowed))}, got {getattr(self, key)!r}.")

    def init(self, spec: ActionSpec, problems: int, like: Tensor) -> Any:
        """The distribution of a first plan: centred in the bounds (0 where unbounded)."""
        mean = repeated(spec.centre, 1.0, (problems, self.horizon), like.dtype, like.device)
        wide = self._wide(spec, mean)
        return Gaussian(mean=mean, std=wide, wide=wide)

    def _wide(self, spec: ActionSpec, mean: Tensor) -> Tensor:
        """The std (B, H, A) with which a plan starts."""
        return repeated(spec.half, self.std, tuple(mean.shape[:2]), mean.dtype, mean.device)

    def shift(self, sampler: Any) -> Any:
        """The distribution one step later: the mean moves up by a step, `tail` says how it ends, exploration starts anew."""
        return replace(sampler, mean=self.moved_up(sampler.mean), std=sampler.wide)

    def moved_up(self, actions: Tensor) -> Tensor:
        last = actions[..., -1:, :]
        return torch.cat((actions[..., 1:, :], last if self.tail == "hold" else torch.zeros_like(last)), -2)

    def sample(self, sampler: Any, noise: Noise, iteration: int = 0) -> Tensor:
        kicks = self.kicks(sampler.mean, noise)
        mean, std = sampler.mean.unsqueeze(1), sampler.std.unsqueeze(1)
        if 0 in kicks.stride():  # shared by problems
            candidates = torch.addcmul(mean, kicks, std)
            candidates[:, 0] = sampler.mean
            return candidates
        kicks.select(1, 0).zero_()
        return torch.addcmul(mean, kicks, std, out=kicks)

    def kicks(self, like: Tensor, noise: Noise) -> Tensor:
        """Standard normal noise (B, S, H, A) for means (B, H, A), in the shape that the planner explores in."""
        problems, horizon, size = like.shape
        shape = self.shape(horizon)
        if shape is None:
            kicks = noise.normal((problems, self.samples, horizon, size), like=like)
        else:
            kicks = shaped(shape.to(like), noise.normal((problems, shape.shape[1], self.samples, size), like=like))
        if self.narrow < 1:
            kicks = kicks * self.narrow ** torch.linspace(0, 1, self.samples).to(kicks)[:, None, None]
        return kicks

    def shape(self, horizon: int) -> Tensor | None:
        """How noise hangs together over a horizon, (H, J); None: not at all."""
        return None if self.knots is None or self.knots == horizon else spline_shape(horizon, self.knots, self.spline)

    def project(self, spec: ActionSpec, candidates: Tensor) -> Tensor:
        if spec.shared is not None:
            return candidates.clamp_(*spec.shared)
        axes = (candidates.shape[-2],)
        return candidates.clamp_(*(repeated(bound, 1.0, axes, candidates.dtype, candidates.device) for bound in (spec.low, spec.high)))

    def check_model(self, model: TransitionModel[Any]) -> None:
        if model.spec.action.kind != "continuous":
            raise ValueError(f"{type(self).__name__} plans continuous actions; {type(model).__name__} takes {model.spec.action.kind} ones.")

    def check_previous(self, previous: Plan, problems: int, spec: ActionSpec) -> Any:
        sampler = previous.sampler
        expected = (problems, self.horizon, spec.size)
        if not isinstance(sampler, Gaussian) or tuple(sampler.mean.shape) != expected:
            got = tuple(sampler.mean.shape) if isinstance(sampler, Gaussian) else type(sampler).__name__
            raise ValueError(f"The previous plan does not fit this planner: expected a distribution of shape {expected}, got {got}; pass previous=None.")
        return replace(sampler, wide=self._wide(spec, sampler.mean))


def knots_within(planner: GaussianPlanner) -> None:
    """Give a planner no more knots than its horizon has steps, for those that have knots by default."""
    if planner.knots is not None and planner.knots > planner.horizon >= 1:
        object.__setattr__(planner, "knots", planner.horizon)


def weighted_mean(weights: Tensor, candidates: Tensor) -> Tensor:
    """(B, H, A) of candidates (B, S, H, A) under weights (B, S); each problem comes out alike, bit for bit, whatever is computed beside it."""
    if candidates.is_cuda:
        return (weights[:, :, None, None] * candidates).sum(1)
    problems, samples, *action = candidates.shape
    rows = candidates.reshape(problems, samples, -1)
    if problems == 1:
        return (weights @ rows[0]).view(1, *action)
    return torch.cat([weight.unsqueeze(0) @ row for weight, row in zip(weights.unbind(), rows.unbind(), strict=True)]).view(problems, *action)


def best_alone(scores: Tensor) -> Tensor:
    """Weights (B, S) by which the candidate of the lowest score decides; all 0 where none is finite."""
    best = torch.nn.functional.one_hot(scores.argmin(1), scores.shape[1])
    return best.to(scores) * scores.isfinite().any(1, keepdim=True)
