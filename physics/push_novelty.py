"""What calibrated twins of known sliders say of recorded pushes, as features of `structwm.training.novelty`: the slider's name and outline stay unknown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structwm.geometry.planar import Shape, rotate, to_body, wrap_angle

from .pushing import PushState, PushTwin
from .recorded_pushes import SECONDS
from .recording import Recording, predict

TRANSITION = ("tip_x", "tip_y", "end_tip_x", "end_tip_y", "way_x", "way_y", "slider_x", "slider_y", "turn")
EXPLANATION = (
    *("start_gap", "end_gap", "end_gap_predicted", "error_along", "error_across", "error_yaw"),
    *("start_overlap", "end_overlap", "end_gap_error", "error", "start_gap_small", "end_gap_small", "approach", "corner"),
)
GAP = 2e-4  # [m], how well gaps are known
POSITION, YAW = 1.5e-3, 0.04  # [m], [rad], of prediction errors


def transition_features(recording: Recording[PushState]) -> Tensor:
    """(N, 9) of straight pushes, in the slider's first frame but for the second: the tip before and after [m] (in the slider's last frame), its way [m], the
    slider's motion [m] and turn [rad]. No slider is named and none is known.
    """
    start, final = recording.state.pose, _final_pose(recording)
    tip = recording.state.pusher
    way = recording.actions.sum(1) * SECONDS
    turn = wrap_angle(final[:, 2] - start[:, 2])
    body = -start[:, 2]
    parts = (to_body(start, tip), to_body(final, tip + way), rotate(way, body), rotate(final[:, :2] - start[:, :2], body), turn[:, None])
    return torch.cat(parts, -1)


def explanation_features(twins: Sequence[PushTwin], recording: Recording[PushState]) -> Tensor:
    """How each of C known twins would explain each of N pushes, (N, C, 14), all about one in size.

    The gap between the tip and the twin's outline before and after the push, after it as predicted, and the errors of the predicted motion along and across
    the push and in yaw. Pushes touch at the start; at the end they touch, or the tip has slipped past the slider and the twin should say so.
    """
    return torch.stack([_explanation(twin, recording) for twin in twins], 1)


def _explanation(twin: PushTwin, recording: Recording[PushState]) -> Tensor:
    start, final = recording.state.pose, _final_pose(recording)
    predicted = predict(twin, recording).states.pose[:, -1]
    tip, way = recording.state.pusher, recording.actions.sum(1) * SECONDS
    poses, tips = torch.stack((start, final, predicted), 1), torch.stack((tip, tip + way, tip + way), 1)
    gap = twin.gap(poses[:, None], tips[:, None])[:, 0] / GAP  # (N, 3)
    heading = torch.atan2(way[:, 1], way[:, 0])
    along, across = (rotate(predicted[:, :2] - final[:, :2], -heading) / POSITION).unbind(-1)
    yaw = wrap_angle(predicted[:, 2] - final[:, 2]) / YAW
    size = (along.square() + across.square() + yaw.square()).sqrt()
    approach, corner = _contact(twin.shape, to_body(start, tip), rotate(way, -start[:, 2]))
    columns = (
        *map(torch.asinh, (*gap.unbind(-1), along, across, yaw)),
        *map(torch.asinh, (gap[:, 0].clamp_max(0), gap[:, 1].clamp_max(0), gap[:, 1] - gap[:, 2], size)),
    )
    return torch.stack((*columns, 1 / (1 + gap[:, 0].square()), 1 / (1 + gap[:, 1].square()), approach, corner), -1)


def _contact(shape: Shape, tip: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of the angle between the push and the inward normal, and how fast the normal turns there (one at corners), each (N,)."""
    near = shape.nearest(tip)
    approach = -(near.normal * way).sum(-1) / way.norm(dim=-1)
    tangent = torch.stack((-near.normal[:, 1], near.normal[:, 0]), -1)
    ahead, behind = (shape.nearest(tip + step * tangent).normal for step in (0.005, -0.005))
    return approach, 0.5 * (ahead - behind).norm(dim=-1)


def _final_pose(recording: Recording[PushState]) -> Tensor:
    return torch.stack([recording.observed[name][:, -1] for name in ("x", "y", "yaw")], -1)
