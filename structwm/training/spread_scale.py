"""How large errors are where members of an ensemble disagree by so much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conformal import LEAST


@dataclass(frozen=True)
class SpreadScale:
    """The standard deviation of errors given what an ensemble says: `sd^2 = floor^2 + gain * variance over members`, for each of D coordinates.

    Members tell where predictions are uncertain, errors how much: gain is above one where the members share what is wrong with them.
    """

    floor: Tensor  # (D,) in the coordinates' units
    gain: Tensor  # (D,)

    @classmethod
    def fit(cls, errors: Tensor, variance: Tensor, *, dof: float = 4.0, iterations: int = 100) -> SpreadScale:
        """The most likely floor and gain of errors (N, H, D) that are Student-t distributed, NaN where nothing was observed.

        Predictions that broke, with an infinite error, and the variances that go with them have no say.

        Raises:
            ValueError: if the shapes differ, the variance of a finite error is negative or not finite, or a coordinate was never observed.
        """
        if errors.shape != variance.shape or errors.ndim != 3:
            raise ValueError(f"SpreadScale needs errors (N, H, D) and variances of that shape, got {tuple(errors.shape)} and {tuple(variance.shape)}.")
        known = errors.isfinite()
        impossible = int((known & ~((variance >= 0) & variance.isfinite())).sum())
        if impossible:
            raise ValueError(f"SpreadScale needs a finite variance of at least 0 for every finite error, got {impossible} others; leave these errors out.")
        if not bool(known.any(0).any(0).all()):
            unseen = (~known.any(0).any(0)).nonzero()[:, 0].tolist()
            raise ValueError(f"SpreadScale needs observed errors of every coordinate, got none of number {', '.join(map(str, unseen))}.")
        e, v = errors.detach().double(), variance.detach().double()
        size = torch.stack([column[at].square().median().clamp_min(LEAST**2) for column, at in zip(e.unbind(-1), known.unbind(-1), strict=True)])
        typical = torch.stack([column[at].median().clamp_min(LEAST**2) for column, at in zip(v.unbind(-1), known.unbind(-1), strict=True)])
        square, relative = torch.where(known, e, 0.0).square() / size, torch.where(known, v, 0.0) / typical
        logs = torch.full((2, len(size)), -0.7, dtype=torch.float64, requires_grad=True)  # of floor^2 / size and gain * typical / size
        search = torch.optim.LBFGS([logs], max_iter=iterations, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            sd2 = logs[0].exp() + logs[1].exp() * relative
            terms = 0.5 * sd2.log() + 0.5 * (dof + 1) * torch.log1p(square / (dof * sd2))
            value = torch.where(known, terms, 0.0).sum() / known.sum() + 1e-4 * logs.square().sum()  # keeps what has no say finite
            value.backward()  # type: ignore[no-untyped-call]
            return value

        search.step(loss)
        with torch.no_grad():
            return cls((logs[0].exp() * size).sqrt(), logs[1].exp() * size / typical)

    def __call__(self, variance: Tensor) -> Tensor:
        """Standard deviations (N, H, D) of variances over members."""
        return (self.floor.to(variance).square() + self.gain.to(variance) * variance).sqrt()
