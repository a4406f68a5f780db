"""MPPI on the knots of a spline."""

from __future__ import annotations

from dataclasses import dataclass

from .gaussian import knots_within
from .mppi import MPPI
from .shapes import Spline


@dataclass(frozen=True, kw_only=True)
class SplineMPPI(MPPI):
    """MPPI whose noise is drawn at the knots of a spline, so that its plans are smooth without a cost that asks for it.

    The spline is held between knots (`zero`), or linear, or cubic, as in MuJoCo MPC (Howell et al., 2022). Its defaults were chosen on six control problems
    (`python -m benchmarks.planning --only quality`, from other start states).
    """

    samples: int = 128
    iterations: int = 4
    anneal: float = 0.7
    std: float = 0.6
    temperature: float = 0.03
    knots: int | None = 6  # no more than there are steps
    spline: Spline = "cubic"

    def __post_init__(self) -> None:
        knots_within(self)
        super().__post_init__()
