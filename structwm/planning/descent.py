"""Action sequences along the gradient of their costs."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from structwm.spec import ActionSpec

from .lagrangian import penalised, updated
from .rollouts import Rollouts, Scores

FIRST = 4.0  # time of a step along the gradient, over that of a rollout, before one was taken
SHARE = 0.5  # of a time budget that goes to what finds the starts
ROUNDS = 5  # in which the multipliers of constraints are found


@torch.no_grad()
def descend(
    rollouts: Rollouts, spec: ActionSpec, actions: Tensor, *, steps: int, rate: float, penalty: float, deadline: float | None = None
) -> tuple[Tensor, Scores]:
    """The best that each sequence comes by in steps of Adam (Kingma and Ba, 2015) of ever smaller size, constraints by an augmented Lagrangian.

    Sequences are projected into the bounds after each step. A gradient that is not finite moves nothing.

    Args:
        rollouts: of a model that gives gradients.
        spec: the bounds.
        actions: (B, K, H, A) inside them.
        steps: of Adam.
        rate: of the first of them, as a fraction of half the action range.
        penalty: cost of half a squared unit of violation.
        deadline: of `time.perf_counter` [s], after which no step is begun.

    Returns:
        The best point of each path (B, K, H, A), and its scores (B, K).
    """
    centre, scale = spec.centre.to(actions), spec.half.to(actions)
    scale = torch.where(scale > 0, scale, 1.0)  # an axis of one value: the projection holds it
    point = ((actions - centre) / scale).requires_grad_()
    search = torch.optim.Adam([point], lr=rate)
    best, scores, multipliers, longest = actions, None, None, FIRST * rollouts.seconds(actions.shape[1])
    for step in range(steps + 1):
        begun = time.perf_counter()
        with torch.enable_grad():
            tried = spec.project(centre + scale * point)
            found = rollouts(tried)
            total = found.cost
            if found.violation is not None:
                multipliers = torch.zeros_like(found.violation) if multipliers is None else multipliers
                total = penalised(total, found.violation, multipliers, penalty)
            if not total.requires_grad:  # nothing depends on the actions
                return actions, _plain(found)
            loss = torch.where(total.isfinite(), total, 0.0).sum()
        now = _plain(found)
        best, scores = (tried.detach(), now) if scores is None else _better(best, scores, tried.detach(), now)
        if step == steps or (deadline is not None and time.perf_counter() + longest > deadline):
            break
        (gradient,) = torch.autograd.grad(loss, point, allow_unused=True)
        if gradient is None:  # what asks for gradients are numbers of the model, and nothing depends on the actions
            break
        point.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        search.param_groups[0]["lr"] = rate * (1 - step / (steps + 1))
        search.step()
        point.copy_((spec.project(centre + scale * point) - centre) / scale)
        longest = max(longest, 1.1 * (time.perf_counter() - begun))
        if multipliers is not None and now.violation is not None and (step + 1) % max(1, steps // ROUNDS) == 0:
            multipliers = updated(multipliers, now.violation, penalty)
    assert scores is not None
    return best, scores


def _plain(scores: Scores) -> Scores:
    return Scores(scores.cost.detach(), None if scores.violation is None else scores.violation.detach())


def _better(best: Tensor, known: Scores, tried: Tensor, now: Scores) -> tuple[Tensor, Scores]:
    """The better of two points of each path: the one that breaks less, then the cheaper one."""
    better = now.cost < known.cost
    if now.violation is None or known.violation is None or now.excess is None or known.excess is None:
        return torch.where(better[:, :, None, None], tried, best), Scores(torch.where(better, now.cost, known.cost), None)
    better = (now.excess < known.excess) | ((now.excess == known.excess) & better)
    violation = torch.where(better[:, :, None], now.violation, known.violation)
    return torch.where(better[:, :, None, None], tried, best), Scores(torch.where(better, now.cost, known.cost), violation)
