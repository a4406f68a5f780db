"""Student-t errors of fits: a few that are far off count little (Lange, Little and Taylor, Journal of the American Statistical Association 1989)."""

from __future__ import annotations

from torch import Tensor

DOF = 4.0  # degrees of freedom nu; fewer let outliers be, many are least squares


def student_t_loss(squares: Tensor, dim: int | None = None) -> Tensor:
    """Negative log-likelihood of errors over an axis, or of all, but for a constant: the sum of (nu + 1) / 2 log(1 + e^2 / nu), from the squares e^2 of errors
    over their scale."""
    return (DOF + 1) / 2 * (squares / DOF).log1p().sum(dim)


def student_t_weights(squares: Tensor) -> Tensor:
    """Weight of each error in the least squares that have the slope of `student_t_loss`: (nu + 1) / (nu + e^2)."""
    return (DOF + 1) / (DOF + squares)
