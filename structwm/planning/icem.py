"""The improved cross-entropy method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.plan import Plan
from structwm.spec import ActionSpec

from .cem import CEM, cheapest
from .gaussian import Gaussian
from .sampling import like_rows
from .shapes import coloured_shape


@dataclass(frozen=True)
class Elites(Gaussian):
    """A distribution, and the candidates it was fitted to."""

    elites: Tensor  # (B, K, H, A); K = 0 before there are any

    def where(self, problems: Tensor, other: Gaussian) -> Elites:
        plain = super().where(problems, other)
        if not isinstance(other, Elites) or other.elites.shape != self.elites.shape:
            return replace(self, mean=plain.mean, std=plain.std)
        return replace(self, mean=plain.mean, std=plain.std, elites=torch.where(like_rows(problems, self.elites), self.elites, other.elites))


@dataclass(frozen=True, kw_only=True)
class ICEM(CEM):
    """CEM with coloured noise and elites that are used again (Pinneri et al., "Sample-efficient cross-entropy method for real-time planning", CoRL 2020).

    Noise whose power falls with frequency explores in long strokes. A share of the elites joins the candidates of the next iteration, and, a step later, of the
    next plan. The last iteration tries the mean as well as what it draws, and the cheapest candidate that was seen is returned. Each iteration may draw fewer
    candidates than the one before (`decay`), so that `samples` is the number of the first.
    """

    iterations: int = 4
    samples: int = 256
    elites: int = 16
    colour: float = 2.0  # exponent of the noise's spectrum: 0 is white, 2 a random walk; larger is slower
    reuse: float = 0.3  # share of the elites that are used again
    decay: float = 1.0  # by which the number of candidates falls from one iteration to the next, 1 and more; never below twice the elites

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colour < 0 or not 0 <= self.reuse <= 1 or not self.decay >= 1:
            raise ValueError(f"ICEM needs colour >= 0, reuse in [0, 1] and decay >= 1, got {self.colour}, {self.reuse} and {self.decay}.")

    def shape(self, horizon: int) -> Tensor | None:
        if self.knots is not None:
            return super().shape(horizon)
        return None if self.colour == 0 else coloured_shape(horizon, float(self.colour))

    def init(self, spec: ActionSpec, problems: int, like: Tensor) -> Elites:
        return _without(super().init(spec, problems, like))

    def check_previous(self, previous: Plan, problems: int, spec: ActionSpec) -> Elites:
        plain = super().check_previous(previous, problems, spec)
        return plain if isinstance(plain, Elites) else _without(plain)

    def shift(self, sampler: Elites) -> Elites:
        return replace(super().shift(sampler), elites=self.moved_up(sampler.elites))

    def sample(self, sampler: Elites, noise: Noise, iteration: int = 0) -> Tensor:
        count = max(min(2 * self.elites, self.samples), round(self.samples * self.decay**-iteration))
        drawn = replace(self, samples=count) if count < self.samples else self
        candidates = super(ICEM, drawn).sample(sampler, noise, iteration)
        again = sampler.elites[:, : min(round(self.reuse * self.elites), count - 1)]
        if again.shape[1]:
            candidates[:, 1 : 1 + again.shape[1]] = again
        return candidates

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Elites:
        elite, costs = cheapest(candidates, scores, self.elites)
        fitted = self.fit(sampler, elite, costs)
        return Elites(fitted.mean, fitted.std, fitted.wide, elite)


def _without(plain: Gaussian) -> Elites:
    """A distribution that was fitted to none."""
    return Elites(plain.mean, plain.std, plain.wide, plain.mean.unsqueeze(1)[:, :0])
