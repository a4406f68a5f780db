"""Which experiment tells most about the parameters: Fisher information as an objective for any planner."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structwm.ensemble import Ensemble
from structwm.interfaces import Objective, Plan, Planner
from structwm.state import Points, State
from structwm.transition import Trajectory

from .posterior import values_of

if TYPE_CHECKING:
    from .calibration import Calibration

STEP = 0.5  # of the differences, in posterior standard deviations


class InformationGain(Objective):
    """Minus the expected information [nat] that watching a trajectory brings about the parameters, for a twin whose members are a difference stencil.

    With J the derivative of what is observed by the parameters, in units of the posterior's standard deviations L (covariance L L^T), and s the size of an
    error, the gain is log det(I + L^T J^T J L / s^2) / 2 (Lindley 1956; Chaloner and Verdinelli, Statistical Science 1995, section 2). Observed are the points
    of the bodies, at every step; those of one body say about the same, and count as one.

    Args:
        directions: n, how many parameters; the trajectory has 2 n members, plus then minus along each.
        error: size of an observation's error [m]; per body and step.

    Raises:
        ValueError: if there is no parameter, or the error is not above zero.
    """

    needs = frozenset({"points"})
    reads_members = True

    def __init__(self, directions: int, *, error: float) -> None:
        if directions < 1 or not 0 < error < math.inf:
            raise ValueError(f"InformationGain needs one direction or more and an error [m] above zero, got {directions} and {error}.")
        self.directions, self.error = directions, error

    def __call__(self, trajectory: Trajectory) -> Tensor:
        view, n = trajectory.points(), self.directions
        positions = view.positions[..., 1:, :, :]  # (*B, 2 n, H, N, 3)
        if positions.shape[-4] != 2 * n:
            raise ValueError(f"InformationGain of {n} directions reads {2 * n} members, plus then minus along each, got {positions.shape[-4]}.")
        plus, minus = positions[..., :n, :, :, :], positions[..., n:, :, :, :]
        moved = (plus - minus) / (2 * STEP * self.error)
        if view.mask is not None:
            seen = view.mask[..., 1:, :]
            moved = torch.where((seen[..., :n, :, :] & seen[..., n:, :, :]).unsqueeze(-1), moved, 0.0)
        rows = (moved * _shares(view).to(moved).unsqueeze(-1)).flatten(-3)
        rows = torch.where(rows.isfinite(), rows, 0.0)
        information = rows @ rows.mT
        return -0.5 * torch.logdet(torch.eye(n, dtype=rows.dtype, device=rows.device) + information)


def _shares(points: Points) -> Tensor:
    """Weights (N,) under which the points of a body together count as one."""
    count = points.positions.shape[-2]
    if points.ids is None:
        return torch.full((count,), count**-0.5)
    ids = points.ids.reshape(-1, count)[0]
    return (ids.unsqueeze(0) == ids.unsqueeze(1)).sum(-1).rsqrt()


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
        error: size of an observation's error [m], as of `InformationGain`; default the largest of the calibration's noise in metres, or 5 mm.
        horizon: only to check that the planner's is as long.
        seed: of the planner.

    Returns:
        The plan; its cost is minus the information gained [nat].

    Raises:
        TypeError: if the planner is none.
        ValueError: if the twin takes no actions, or has no points view, or the planner's horizon is another, or the state is of something else.
    """
    twin = calibration.twin
    if not isinstance(planner, Planner):
        raise TypeError(f"suggest_actions needs a planner of structwm.planning, such as CEM(horizon=20), got {type(planner).__name__}.")
    if twin.spec.action.size == 0:
        raise ValueError(f"{type(twin).__name__} takes no actions, so there is none to suggest; give its world an actuator.")
    if horizon is not None and getattr(planner, "horizon", horizon) != horizon:
        raise ValueError(f"suggest_actions was asked for {horizon} steps, and the planner plans {planner.horizon}.")  # type: ignore[attr-defined]
    if error is None:
        metres = [value for name, value in calibration.noise.items() if name.endswith(".position") or name in ("x", "y", "points")]
        error = max(metres, default=0.005)
    if not isinstance(state, twin.spec.state_type) or len(state.batch_size) > 1:
        given = f"one of batch size {tuple(state.batch_size)}" if isinstance(state, State) else type(state).__name__
        raise ValueError(f"suggest_actions needs a {twin.spec.state_type.__name__} of batch size () or (B,), got {given}.")
    state = state if state.batch_size else state.unsqueeze(0)
    return planner.plan(stencil(calibration), state, InformationGain(len(calibration.space), error=error), seed=seed)
