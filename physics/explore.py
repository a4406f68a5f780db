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
ROUGH = 0.6  # information over the long way, relative to that over the short, below which a loss is called rough
REPLICATES = 400  # of the bootstrap
BEST = 3  # draws that a replicate averages


@dataclass(frozen=True)
class Explored:
    """Where the loss is least, over resampled runs."""

    mean: Tensor  # (n,)
    covariance: Tensor  # (n, n)


def is_rough(posterior: Posterior, found: Found, at: System, covariance: Tensor, journal: Journal) -> bool:
    """Whether differences over a few widths of the posterior say less than those over one: they would agree if the loss were smooth."""

    def ratio() -> float:
        steps = (FAR * covariance.diagonal().sqrt()).clamp(posterior.likelihood.step, 1.0)
        away = system(posterior, found, steps).information.diagonal()
        near = at.information.diagonal()
        return float((away.clamp_min(1e-12) / near.clamp_min(1e-12)).log().mean().exp())

    return bool(journal.once("rough", ratio) < ROUGH)


def explore(posterior: Posterior, found: Found, draws: int, rounds: int, seed: int, journal: Journal, report: Report) -> Explored:
    """The bootstrap over runs (Efron, 1979) on draws that all runs share: each replicate weighs the runs anew and takes the draws that are best for it.

    Draws come from a normal distribution, twice as wide as where the replicates of the round before ended; the first is half as wide as the prior. The spread
    of the replicates is that of the estimator, with the roughness of its loss.
    """
    prior, likelihood = posterior.prior, posterior.likelihood
    n, runs = len(found.z), likelihood.recording.runs.unique(return_inverse=True)[1]
    if int(runs.max()) + 1 < 2:
        raise ValueError("explore needs two runs at least.")
    generator = torch.Generator().manual_seed(seed + 7)
    width = prior.covariance.diagonal().sqrt().clamp_max(2.0)
    result = Explored(found.z, (0.25 * width.diag()) ** 2)
    points, parts = torch.zeros(0, n, dtype=torch.float64), torch.zeros(0, int(runs.max()) + 1, dtype=torch.float64)
    for _ in range(rounds):
        factor = torch.linalg.cholesky(4.0 * result.covariance)
        fresh = result.mean + torch.randn(draws, n, generator=generator, dtype=torch.float64) @ factor.T

        def weigh() -> list[list[float]]:
            """Of each draw, what each run loses."""
            start = None if found.start is None else found.start.expand(draws, -1, -1)
            losses = likelihood.losses(likelihood.errors(fresh, start)).clamp_max(1e12)  # noqa: B023
            return torch.zeros(draws, parts.shape[1], dtype=torch.float64).index_add_(1, runs, losses).tolist()  # noqa: B023

        points, parts = torch.cat((points, fresh)), torch.cat((parts, torch.tensor(journal.once("weigh", weigh), dtype=torch.float64)))
        away = points - prior.mean
        base = 0.5 * ((away @ posterior.precision) * away).sum(-1)
        weights = torch.distributions.Exponential(torch.ones((), dtype=torch.float64))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            share = weights.sample((REPLICATES, parts.shape[1]))  # the Bayesian bootstrap (Rubin, 1981): no run drops out
        share = share * parts.shape[1] / share.sum(-1, keepdim=True)
        losses = share @ parts.T + base
        best = losses.topk(BEST, largest=False).indices
        ends = points[best].mean(1)
        mean = ends.mean(0)
        spread = (ends - mean).T @ (ends - mean) / (REPLICATES - 1)
        floor = (0.02 * width.diag()) ** 2
        result = Explored(mean, spread + floor)
        report(draws, float((parts.sum(-1) + base).min()))
    return result
