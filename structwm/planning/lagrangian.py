"""The augmented Lagrangian: constraints as costs whose weights are found along (Nocedal and Wright, Numerical Optimization, 2006, section 17.3)."""

from __future__ import annotations

from torch import Tensor


def penalised(cost: Tensor, violation: Tensor, multipliers: Tensor, penalty: float) -> Tensor:
    """`J + sum_c (max(0, l_c + p g_c)^2 - l_c^2) / (2 p)` for conditions g <= 0.

    Args:
        cost: J, (*B).
        violation: g, (*B, C).
        multipliers: l >= 0, broadcasting against g.
        penalty: p, cost of half a squared unit of violation.
    """
    return cost + ((multipliers + penalty * violation).clamp_min(0).square() - multipliers.square()).sum(-1) / (2 * penalty)


def updated(multipliers: Tensor, violation: Tensor, penalty: float) -> Tensor:
    """Multipliers after violations (*B, C) at the point that they led to; those that are not finite change nothing."""
    return (multipliers + penalty * violation.nan_to_num(0.0, 0.0, 0.0)).clamp_min(0)
