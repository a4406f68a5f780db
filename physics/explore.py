"""Exploring what recorded runs say of parameters by draws, for losses that are rough: motion with impacts turns small changes of parameters into other bounces,
and what a linearisation at a point says of the uncertainty is far too sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .journal import Journal
from .optimise import Found, Posterior, Report, System, system

FAR = 4.0  # posterior widths over which a loss is compared with itself over one
ROUGH = 0.85  # information over the long way, relative to that over the short, below which a loss is called rough; smooth ones have 0.95 to 1.05
SAID = 1.0  # information of a parameter, in units of its prior's, from which the data says something of it
REPLICATES = 400  # of the bootstrap
BEST = 3  # draws that a replicate averages


@dataclass(frozen=True)
class Explored:
    """Where the loss is least, over resampled runs."""

    mean: Tensor  # (n,)
    covariance: Tensor  # (n, n)


def is_rough(posterior: Posterior, found: Found, at: System, covariance: Tensor, journal: Journal) -> bool:
    """Whether differences over a few widths of the posterior say less than those over one: they would agree if the loss were smooth. One parameter is enough
    of those of which the data says something.
    """

    def ratio() -> float:
        steps = (FAR * covariance.diagonal().sqrt()).clamp(posterior.likelihood.step, 1.0)
        away = system(posterior, found, steps, expected=True).information.diagonal()
        near = at.information.diagonal()
        said = near * posterior.prior.covariance.diagonal() > SAID
        return float((away[said] / near[said]).min()) if bool(said.any()) else 1.0

    return bool(journal.once("rough", ratio) < ROUGH)


def explore(posterior: Posterior, found: Found, at: System, draws: int, rounds: int, seed: int, journal: Journal, report: Report) -> Explored:
    """The bootstrap over runs (Efron, 1979) on draws that all runs share: each replicate weighs the runs anew and takes the draws that are best for it.

    Draws come from a normal distribution, twice as wide as where the replicates of the round before ended; the first is half as wide as the prior. The spread
    of the replicates is that of the estimator, with the roughness of its loss. Each replicate also draws the prior's mean anew, as the prior is no data: where
    runs and prior are normal, the replicates then are draws from the posterior. `linearised` has the last word where the data says nothing.
    """
    prior, likelihood = posterior.prior, posterior.likelihood
    n, runs = len(found.z), likelihood.recording.runs.unique(return_inverse=True)[1]
    count = int(runs.max()) + 1
    if count < 2:
        raise ValueError("explore needs two runs at least.")
    generator = torch.Generator().manual_seed(seed + 7)
    width = prior.covariance.diagonal().sqrt().clamp_max(2.0)
    result = Explored(found.z, (0.25 * width.diag()) ** 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        share = torch.distributions.Exponential(torch.ones((), dtype=torch.float64)).sample((REPLICATES, count))  # Bayesian (Rubin, 1981): no run drops out
    share = share * count / share.sum(-1, keepdim=True)
    kicks = torch.randn(REPLICATES, n, generator=generator, dtype=torch.float64)
    centers = prior.mean + kicks @ torch.linalg.cholesky(prior.covariance).T
    points, parts = torch.zeros(0, n, dtype=torch.float64), torch.zeros(0, count, dtype=torch.float64)
    for _ in range(rounds):
        factor = torch.linalg.cholesky(4.0 * result.covariance)
        fresh = result.mean + torch.randn(draws, n, generator=generator, dtype=torch.float64) @ factor.T

        def weigh() -> list[list[float]]:
            """Of each draw, what each run loses."""
            start = None if found.start is None else found.start.expand(draws, -1, -1)
            losses = likelihood.losses(likelihood.errors(fresh, start)).clamp_max(1e12)  # noqa: B023
            return torch.zeros(draws, count, dtype=torch.float64).index_add_(1, runs, losses).tolist()

        points, parts = torch.cat((points, fresh)), torch.cat((parts, torch.tensor(journal.once("weigh", weigh), dtype=torch.float64)))
        away = points - centers.unsqueeze(1)  # (R, P, n)
        losses = share @ parts.T + 0.5 * ((away @ posterior.precision) * away).sum(-1)
        ends = points[losses.topk(BEST, largest=False).indices].mean(1)
        mean = ends.mean(0)
        spread = (ends - mean).T @ (ends - mean) / (REPLICATES - 1)
        floor = (0.02 * width.diag()) ** 2
        result = Explored(mean, spread + floor)
        report(draws, float(parts.sum(-1).min()))
    return linearised(result, found.z, at.information + posterior.precision)


def linearised(explored: Explored, z: Tensor, precision: Tensor) -> Explored:
    """What was explored, and in the directions in which it looks surer than the linearisation at z (precision (n, n)), that instead.

    The best of few draws hold any value of what the data does not say, and all replicates choose the same few. A rough loss makes a linearisation too sure,
    never the other way.
    """
    factor = torch.linalg.cholesky(precision)
    inverse = torch.linalg.inv(factor)
    ratio, axes = torch.linalg.eigh(inverse @ torch.linalg.inv(explored.covariance) @ inverse.T)
    rough = axes[:, ratio < 1]
    mean = z + inverse.T @ rough @ rough.T @ factor.T @ (explored.mean - z)
    back = inverse.T @ axes
    return Explored(mean, back @ (1 / ratio.clamp_max(1.0)).diag() @ back.T)
