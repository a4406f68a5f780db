"""Predictions as scene flow: how far every point goes in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.transition import Trajectory


def scene_flow(trajectory: Trajectory) -> Tensor:
    """Motion (*B, H, N, 3) [m, world frame] of the points of a prediction over each of its steps (Vedula et al., ICCV 1999); 0 where a point does not count.

    Of any model with a points view; NaN where the prediction is not valid at both ends of a step.

    Raises:
        ViewMissing: if the model has no points view.
    """
    points = trajectory.points()
    flow = points.positions.diff(dim=-3)
    if points.mask is not None:
        both = points.mask[..., 1:, :] & points.mask[..., :-1, :]
        flow = torch.where(both.unsqueeze(-1), flow, 0.0)
    known = trajectory.valid[..., 1:] & trajectory.valid[..., :-1]
    return torch.where(known[..., None, None], flow, torch.nan)
