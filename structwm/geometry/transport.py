"""Entropic optimal transport between weighted sets, batched and differentiable: the smooth, fractional kin of the one-to-one matching of `emd`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Transport(NamedTuple):
    """How much of each point goes where."""

    plan: Tensor  # (*B, N, M), rows add to the weights of the one set and columns to those of the other
    marginal_error: Tensor  # (*B), the share of mass that was not in its place before the last correction, in [0, 1]


def sinkhorn(costs: Tensor, blur: Tensor | float, *, mask_a: Tensor | None = None, mask_b: Tensor | None = None, iterations: int = 100) -> Transport:
    """The transport plan P that minimises sum(P * costs) + blur * sum(P log P), where the points of each set weigh alike.

    Sinkhorn's iterations on logarithms (Cuturi, NeurIPS 2013; Peyré and Cuturi, 2019, section 4.4), whose blur comes down by a constant factor from the
    largest cost over the first two thirds of the iterations. In the end the plan is corrected to exact marginals (Altschuler et al., NeurIPS 2017, algorithm
    2), so that sum(P * costs) is never below that of the best plan, and above it by little more than the blur where the marginal error is small.

    Args:
        costs: (*B, N, M), what it costs to bring a unit from one point to another; numbers at masked points may be any finite ones.
        blur: above 0 in the unit of the costs, one or (*B); smaller is sharper and needs more iterations.
        mask_a: (*B, N) bool, the rows that count.
        mask_b: (*B, M) bool, the columns that count.
        iterations: how many; each is two passes over the costs.

    Raises:
        ValueError: in one sentence, on shapes that do not fit or a blur that is not above 0.
    """
    batch = costs.shape[:-2]
    blur = torch.as_tensor(blur, dtype=costs.dtype, device=costs.device)
    if costs.ndim < 2 or not bool((blur > 0).all()) or iterations < 1:
        raise ValueError(f"sinkhorn: expected costs (*B, N, M), a blur above 0 and an iteration, got {tuple(costs.shape)}, {blur.min():g} and {iterations}.")
    sharp = blur.expand(batch)[..., None, None]
    rows, columns = _weights(costs[..., 0], mask_a), _weights(costs[..., 0, :], mask_b)
    log_rows, log_columns = rows.log().unsqueeze(-1), columns.log().unsqueeze(-2)
    widest = torch.maximum(costs.abs().amax((-2, -1), keepdim=True), sharp)
    ramp = max(1, 2 * iterations // 3)
    g = torch.zeros_like(costs[..., :1, :])
    for step in range(iterations):
        eps = sharp * (widest / sharp) ** max(0.0, 1 - step / ramp)
        f = -eps * torch.logsumexp(log_columns + (g - costs) / eps, -1, keepdim=True)
        g = -eps * torch.logsumexp(log_rows + (f - costs) / eps, -2, keepdim=True)
    plan = (log_rows + log_columns + (f + g - costs) / sharp).exp()
    held = plan.sum(-1)
    plan = plan * torch.where(held > rows, rows / held.clamp_min(torch.finfo(held.dtype).tiny), 1.0).unsqueeze(-1)
    lack, room = (rows - plan.sum(-1)).clamp_min(0), (columns - plan.sum(-2)).clamp_min(0)
    missing = lack.sum(-1)
    share = room / room.sum(-1, keepdim=True).clamp_min(torch.finfo(room.dtype).tiny)
    return Transport(plan + lack.unsqueeze(-1) * share.unsqueeze(-2), missing.detach())


def _weights(like: Tensor, mask: Tensor | None) -> Tensor:
    """Of points that weigh alike and in all one."""
    counted = torch.ones_like(like) if mask is None else mask.to(like).expand_as(like)
    return counted / counted.sum(-1, keepdim=True)
