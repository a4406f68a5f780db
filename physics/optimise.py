"""How a calibration finds the parameters: a global search, then steps downhill. Every function evaluated is kept in a journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cma
import numpy as np
import torch
from torch import Tensor

from .journal import Journal
from .posterior import Likelihood, Prior, update_noise

DAMPINGS = (0.0, *np.logspace(-3, 3, 7))


@dataclass
class Found:
    """Where the search stands."""

    z: Tensor  # (n,)
    start: Tensor | None  # (N, D) displacements of the start states, in units of their spread
    losses: list[float] = field(default_factory=list)  # negative log posterior
    nonfinite: int = 0  # numbers in gradients that were not finite, and were left out


Report = Callable[[int, float], None]


class Posterior:
    """The likelihood of one recording times the prior."""

    def __init__(self, likelihood: Likelihood, prior: Prior) -> None:
        self.likelihood, self.prior = likelihood, prior
        self.precision = torch.linalg.inv(prior.covariance)

    def loss(self, z: Tensor, start: Tensor | None = None) -> Tensor:
        """Negative log posterior (P,) up to a constant, of draws z (P, n) and displacements (P, N, D)."""
        away = z - self.prior.mean
        fit = self.likelihood.loss(self.likelihood.errors(z, start)) + 0.5 * ((away @ self.precision) * away).sum(-1)
        return fit if start is None else fit + 0.5 * start.square().flatten(1).sum(-1)


@dataclass(frozen=True)
class System:
    """The Gauss-Newton equations at a point, with the start states' displacements eliminated where there are any."""

    information: Tensor  # (n, n) of the data about z
    gradient: Tensor  # (n,) of the negative log posterior, likewise
    scores: Tensor  # (N, n) gradient of each trajectory's part
    each: Tensor  # (N, n, n) information of each trajectory
    evidence: Tensor  # (n, n) information of the evidence
    jacobian: Tensor  # (M, n) of the errors by z
    nonfinite: int
    starts: tuple[Tensor, Tensor, Tensor] | None = None  # (N, D, D), (N, D, n), (N, D): information, cross information and gradient of the displacements


def system(posterior: Posterior, found: Found, steps: Tensor | None = None, *, expected: bool = False) -> System:
    """Linearise at a point, by differences over `steps` (n,) if not the likelihood's own.

    The weights of the errors take their curvature to be more than it is, which makes for safe steps. `expected` gives the curvature that Student-t errors have
    on average, as intervals need it.
    """
    likelihood, z, start = posterior.likelihood, found.z, found.start
    errors = likelihood.errors(z[None], None if start is None else start[None])[0]
    jacobian = likelihood.jacobian(z, start, steps)
    weight = likelihood.weights(errors)
    share = likelihood.curvature(errors) if expected else torch.ones_like(weight)
    bad = ~(jacobian.isfinite().all(-1) & errors.isfinite())
    nonfinite = int((~jacobian.isfinite()).sum())
    jacobian, weight, errors = torch.where(bad[:, None], 0.0, jacobian), torch.where(bad, 0.0, weight), torch.where(bad, 0.0, errors)
    size = likelihood.known.numel()
    rows, e, w, part = (likelihood.by_trajectory(column) for column in (jacobian, errors, weight, share))
    each = torch.einsum("nri,nr,nrj->nij", rows, w * part, rows)
    scores = torch.einsum("nri,nr,nr->ni", rows, w, e)
    extra = jacobian[size:]
    evidence = (extra.T * (weight * share)[size:]) @ extra
    away = posterior.precision @ (z - posterior.prior.mean) + (extra.T * weight[size:]) @ errors[size:]
    starts = None
    if start is not None:
        moved = likelihood.start_jacobian(z, start)
        nonfinite += int((~moved.isfinite()).sum())
        wrong = ~moved.isfinite().all(-1)
        moved, w = torch.where(wrong.unsqueeze(-1), 0.0, moved), torch.where(wrong, 0.0, w)
        own = torch.einsum("nri,nr,nrj->nij", moved, w * part, moved) + torch.eye(moved.shape[-1], dtype=z.dtype)
        cross = torch.einsum("nri,nr,nrj->nij", moved, w * part, rows)
        pull = torch.einsum("nri,nr,nr->ni", moved, w, e) + start
        solved = torch.linalg.solve(own, torch.cat((cross, pull.unsqueeze(-1)), -1))
        each = each - cross.mT @ solved[..., :-1]
        scores = scores - (cross.mT @ solved[..., -1:]).squeeze(-1)
        starts = (own, cross, pull)
    return System(each.sum(0) + evidence, scores.sum(0) + away, scores, each, evidence, jacobian, nonfinite, starts)


def search(posterior: Posterior, evaluations: int, seed: int, journal: Journal, report: Report) -> Tensor:
    """The best draw of CMA-ES (Hansen and Ostermeier, 2001), started at the prior, where details stay: draws of many of them seldom hold a good one."""
    prior, drawn = posterior.prior, posterior.likelihood.space.coarse

    def placed(coarse: Sequence[Sequence[float]]) -> Tensor:
        z = prior.mean.expand(len(coarse), -1).clone()
        z[:, drawn] = torch.tensor(np.array(coarse))
        return z

    widths = prior.covariance.diagonal().sqrt().clamp_max(2.0).numpy()[drawn]
    population = min(8 + 6 * round(math.log(len(widths) + 1)), max(evaluations // 8, 4))  # twice the usual: a launch rolls all out, and losses may be rough
    options = {"seed": seed + 1, "verbose": -9, "CMA_stds": widths, "maxfevals": evaluations, "popsize": population}
    strategy = cma.CMAEvolutionStrategy(prior.mean.numpy()[drawn], 0.5, options)
    best, lowest = prior.mean, float(journal.once("first", lambda: float(posterior.loss(prior.mean[None]))))
    while not strategy.stop():
        asked = strategy.ask()
        draws = placed(asked)
        losses = torch.tensor(journal.once("draws", lambda: posterior.loss(draws).clamp_max(1e30).tolist()), dtype=torch.float64)  # noqa: B023
        strategy.tell(asked, losses.tolist())
        if float(losses.min()) < lowest:
            best, lowest = draws[int(losses.argmin())], float(losses.min())
        report(len(asked), lowest)
    middle = placed([strategy.result.xfavorite])[0]
    settled = journal.once("middle", lambda: float(posterior.loss(middle[None]).clamp_max(1e30)))
    return middle if settled < lowest + 0.5 * len(drawn) else best  # of a rough loss the middle of the good region predicts better than the luckiest draw


def gauss_newton(posterior: Posterior, found: Found, iterations: int, tolerance: float, journal: Journal, report: Report) -> Found:
    """Damped Gauss-Newton steps (Levenberg-Marquardt, all dampings tried in one launch), the noise scales estimated again before each."""
    likelihood = posterior.likelihood

    def settle(spread: Tensor | None = None) -> dict[str, float]:
        """Noise scales at the present point, with what fitting took out of the residuals."""
        update_noise([likelihood], [_errors(likelihood, found)], None if spread is None else [spread])
        return dict(likelihood.noise)

    likelihood.noise = journal.once("noise", settle)
    found.losses.append(_loss(posterior, found))
    for _ in range(iterations):

        def step() -> dict[str, object]:
            """One step; what it ends with, as plain JSON."""
            at = system(posterior, found)
            before = _loss(posterior, found)
            moves, shifts = _steps(at, posterior, found)
            tried = found.z - moves
            starts = None if shifts is None or found.start is None else found.start - shifts
            after = posterior.loss(tried, starts)
            winner = int(after.argmin())
            improvement = before - float(after[winner])
            if improvement > 0:
                found.z, found.start = tried[winner], None if starts is None else starts[winner]
            noise = settle(((at.jacobian @ torch.linalg.inv(at.information + posterior.precision)) * at.jacobian).sum(-1))
            start = None if found.start is None else found.start.tolist()
            done = not improvement > tolerance * (abs(before) + 1.0)
            return {"z": found.z.tolist(), "start": start, "done": done, "nonfinite": at.nonfinite, "noise": noise, "loss": _loss(posterior, found)}

        result = journal.once("step", step)
        found.z = torch.tensor(result["z"], dtype=torch.float64)
        found.start = None if result["start"] is None else torch.tensor(result["start"], dtype=torch.float64)
        found.nonfinite += result["nonfinite"]
        likelihood.noise = result["noise"]
        found.losses.append(result["loss"])
        report(1, found.losses[-1])
        if result["done"]:
            break
    return found


def _errors(likelihood: Likelihood, found: Found) -> Tensor:
    return likelihood.errors(found.z[None], None if found.start is None else found.start[None])[0]


def _loss(posterior: Posterior, found: Found) -> float:
    return float(posterior.loss(found.z[None], None if found.start is None else found.start[None]))


def _steps(at: System, posterior: Posterior, found: Found) -> tuple[Tensor, Tensor | None]:
    """Steps in z (K, n), and in the displacements (K, N, D), under K dampings from none to strong."""
    hessian = at.information + posterior.precision
    dampings = torch.tensor(DAMPINGS, dtype=hessian.dtype)
    moves = torch.linalg.solve(hessian + dampings[:, None, None] * hessian.diagonal().diag(), at.gradient.expand(len(dampings), -1))
    if at.starts is None:
        return moves, None
    own, cross, pull = at.starts
    damped = own + dampings[:, None, None, None] * own.diagonal(dim1=-2, dim2=-1).diag_embed()
    right = pull - torch.einsum("nij,kj->kni", cross, moves)
    return moves, torch.linalg.solve(damped, right.unsqueeze(-1)).squeeze(-1)


def damped_steps(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Levenberg-Marquardt steps (K, n) under K dampings from none to strong."""
    dampings = torch.tensor(DAMPINGS, dtype=hessian.dtype)
    systems = hessian + dampings[:, None, None] * hessian.diagonal().diag()
    return torch.linalg.solve(systems, gradient.expand(len(dampings), -1))


def adam(posterior: Posterior, found: Found, iterations: int, rate: float, journal: Journal, report: Report) -> Found:
    """Steps along the gradient that the twin gives (Kingma and Ba, 2015), the best point kept; the noise scales are estimated again every tenth step.

    A step whose gradient is not finite is counted and not taken.
    """
    likelihood = posterior.likelihood

    def settle() -> dict[str, float]:
        update_noise([likelihood], [_errors(likelihood, found)])
        return dict(likelihood.noise)

    likelihood.noise = journal.once("noise", settle)
    leaves = [found.z.clone().requires_grad_()] + ([] if found.start is None else [found.start.clone().requires_grad_()])
    optimiser = torch.optim.Adam(leaves, lr=rate)
    best, lowest = [leaf.detach().clone() for leaf in leaves], _loss(posterior, found)
    found.losses.append(lowest)
    for iteration in range(iterations):

        def gradient() -> dict[str, object]:
            loss = posterior.loss(leaves[0][None], leaves[1][None] if len(leaves) > 1 else None)
            gradients = torch.autograd.grad(loss.sum(), leaves)
            bad = sum(int((~part.isfinite()).sum()) for part in gradients)
            return {"loss": min(float(loss.detach()), 1e30), "bad": bad, "gradients": [] if bad else [part.tolist() for part in gradients]}

        result = journal.once("gradient", gradient)
        if result["loss"] < lowest:
            best, lowest = [leaf.detach().clone() for leaf in leaves], result["loss"]
        found.losses.append(result["loss"])
        report(1, lowest)
        found.nonfinite += result["bad"]
        if not result["bad"]:
            for leaf, part in zip(leaves, result["gradients"], strict=True):
                leaf.grad = torch.tensor(part, dtype=torch.float64)
            optimiser.step()
        if iteration % 10 == 9:
            found.z, found.start = best[0], best[1] if len(best) > 1 else None
            likelihood.noise = journal.once("noise", settle)
            lowest = _loss(posterior, found)
    found.z, found.start = best[0], best[1] if len(best) > 1 else None
    return found
