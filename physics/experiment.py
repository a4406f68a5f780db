"""Which experiment tells most about the parameters: Fisher information as an objective for any planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structwm.ensemble import Ensemble
from structwm.interfaces import Objective, Plan, Planner
from structwm.transition import Trajectory

from .posterior import values_of

if TYPE_CHECKING:
    from .calibration import Calibration

STEP = 0.5  # of the differences, in posterior standard deviations


class InformationGain(Objective):
    """Minus the expected information [nat] that watching a trajectory brings about the parameters, for a twin whose members are a difference stencil.

    With J the derivative of what is observed by the parameters, in units of the posterior's standard deviations L (covariance L L^T), and s the size of an
    error, the gain is log det(I + L^T J^T J L / s^2) / 2 (Lindley 1956; Chaloner and Verdinelli, Statistical Science 1995, section 2). Observed are the points
    of the bodies, at every step.

    Args:
        directions: n, how many parameters; the trajectory has 2 n members, plus then minus along each.
        error: size of an observation's error [m]; per point and step.
    """

    needs = frozenset({"points"})
    reads_members = True

    def __init__(self, directions: int, *, error: float) -> None:
        self.directions, self.error = directions, error

    def __call__(self, trajectory: Trajectory) -> Tensor:
        positions = trajectory.points().positions[..., 1:, :, :]  # (*B, 2 n, H, N, 3)
        n = self.directions
        plus, minus = positions[..., :n, :, :, :], positions[..., n:, :, :, :]
        points = positions.shape[-2]
        rows = ((plus - minus) / (2 * STEP)).flatten(-3) / (self.error * points**0.5)  # points of one body say about the same
        rows = torch.where(rows.isfinite(), rows, 0.0)
        information = rows @ rows.mT
        return -0.5 * torch.logdet(torch.eye(n, dtype=rows.dtype, device=rows.device) + information)


def stencil(calibration: Calibration[Any]) -> Ensemble[Any]:
    """The calibrated twin under 2 n parameter values: plus and minus `STEP` posterior standard deviations along each axis of the posterior."""
    factor = torch.linalg.cholesky(calibration.covariance)
    moved = torch.cat((calibration.z + STEP * factor.T, calibration.z - STEP * factor.T))
    return Ensemble(calibration.twin.with_parameters(values_of(calibration.space, moved)))


def suggest_actions(
    calibration: Calibration[Any], planner: Planner, state: Any, *, error: float | None = None, horizon: int | None = None, seed: int = 0
) -> Plan:
    """The actions whose outcome would tell most about the parameters (optimal design by Fisher information).

    Args:
        calibration: what is known so far.
        planner: any planner; its horizon is that of the experiment.
        state: where the experiment would start, batch size (B,) or ().
        error: size of an observation's error [m]; default the largest of the calibration's noise in metres, or 5 mm.
        horizon: only to check that the planner's is as long.
        seed: of the planner.

    Returns:
        The plan; its cost is minus the information gained [nat].

    Raises:
        ValueError: if the twin takes no actions, or has no points view, or the planner's horizon is another.
    """
    twin = calibration.twin
    if twin.spec.action.size == 0:
        raise ValueError(f"{type(twin).__name__} takes no actions, so there is none to suggest; give its world an actuator.")
    if horizon is not None and getattr(planner, "horizon", horizon) != horizon:
        raise ValueError(f"suggest_actions was asked for {horizon} steps, and the planner plans {planner.horizon}.")  # type: ignore[attr-defined]
    if error is None:
        metres = [value for name, value in calibration.noise.items() if name.endswith(".position") or name in ("x", "y", "points")]
        error = max(metres, default=0.005)
    state = state if state.batch_size else state.unsqueeze(0)
    return planner.plan(stencil(calibration), state, InformationGain(len(calibration.space), error=error), seed=seed)
