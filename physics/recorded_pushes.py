"""Recorded straight pushes as what a `PushTwin` is calibrated on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.data.pushes import Pushes
from structwm.geometry.planar import Ellipse, Polygon, Shape
from structwm.training.windows import Batch
from structwm.transition import TransitionModel

from .posterior import Evidence
from .pushing import CALIBRATED, PushState, PushTwin
from .recording import Recording
from .twin import Twin

PARAMETERS = (
    *CALIBRATED,
    *("surface_anisotropy_x", "surface_anisotropy_xy"),
    *("tip_offset_x", "tip_offset_y", "outline_x", "outline_y", "outline_angle", "pusher_radius"),
)
"""What is calibrated on real pushes: beside what any pushes identify, the surface's grain, and the geometry, which a recording knows to a millimetre only."""
SECONDS = 1.0  # a straight push is one step of this length; quasi-static motion does not depend on speed
SUBSTEPS = 30  # about 1.5 mm each for the pushes of Yu et al. (IROS 2016)


def push_shape(pushes: Pushes) -> Shape:
    """The slider's outline."""
    return Polygon.of(pushes.outline) if pushes.semi_axes is None else Ellipse(*map(float, pushes.semi_axes))


def push_twin(pushes: Pushes) -> PushTwin:
    """An uncalibrated twin of the slider that takes a whole straight push as one step."""
    reach = float(abs(pushes.final_tip - pushes.init_tip).max())
    return PushTwin(push_shape(pushes), pusher_radius=float(pushes.tip_radius), dt=SECONDS, max_speed=max(0.1, 1.01 * reach / SECONDS), substeps=SUBSTEPS)


def push_recording(pushes: Pushes) -> Recording[PushState]:
    """N straight pushes of which the final pose was observed: actions (N, 1, 2), observations (N, 2) of x, y [m] and yaw [rad]."""
    start = torch.tensor(pushes.init_pose, dtype=torch.float64)
    tip, tip_end = (torch.tensor(tip, dtype=torch.float64) for tip in (pushes.init_tip, pushes.final_tip))
    final = torch.tensor(pushes.final_pose, dtype=torch.float64)
    unknown = torch.full_like(final, float("nan"))
    observed: dict[str, Tensor] = {name: torch.stack((unknown[:, i], final[:, i]), 1) for i, name in enumerate(("x", "y", "yaw"))}
    return Recording(
        state=PushState(pose=start, pusher=tip, batch_size=[len(start)]),
        actions=((tip_end - tip) / SECONDS).unsqueeze(1),
        observed=observed,
        scale={"x": 0.0015, "y": 0.0015, "yaw": 0.03},
        periodic=frozenset({"yaw"}),
    )


def push_windows(pushes: Pushes, *, dt: float = SECONDS) -> Batch:
    """Straight pushes as windows of `SECONDS / dt` equal steps, float64: the pusher is known all along, the slider at the start and at the end."""
    steps = round(SECONDS / dt)
    recording = push_recording(pushes)
    share = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)[:, None]
    pusher = recording.state.pusher.unsqueeze(1) + share * recording.actions * SECONDS
    pose = torch.full((len(pushes), steps + 1, 3), float("nan"), dtype=torch.float64)
    pose[:, 0] = recording.state.pose
    pose[:, -1] = torch.tensor(pushes.final_pose, dtype=torch.float64)
    states = PushState(pose=pose, pusher=pusher, batch_size=[len(pushes), steps + 1])
    return Batch(states, recording.actions.expand(-1, steps, -1).contiguous(), torch.ones(len(pushes), steps + 1, dtype=torch.bool))


def final_pose(model: TransitionModel[PushState], pushes: Pushes) -> np.ndarray:
    """Predicted final poses (n, 3) of any model of pushing, with as many steps a push as its step asks for; the mean over members.

    A push may be faster than the model's bound on actions: quasi-static motion does not depend on speed.
    """
    assert model.spec.dt is not None
    batch, members = push_windows(pushes, dt=model.spec.dt), model.spec.members
    start = batch.start if members == 1 else batch.start.unsqueeze(1).expand(len(batch), members)
    with torch.no_grad():
        states = model.roll(start, batch.actions).states[..., -1]
    poses: np.ndarray = (states if members == 1 else model.scene.average(states, 1)).pose.double().numpy()
    return poses


def contact_gap(twin: Twin[Any], recording: Recording[Any]) -> Tensor:
    """Evidence on where outline and tip really are: the gap [m] between pusher and slider in the recorded start and final poses, (N, E, 2), 0 in contact.

    For recordings whose pushes start and end in contact, as those of Yu et al. (IROS 2016) do.
    """
    names = ("x", "y", "yaw")
    final = torch.stack([recording.observed[name][:, -1] for name in names], -1)
    poses = torch.stack((recording.state.pose, final), 1)[:, None]  # (N, 1, 2, 3)
    moved = recording.state.pusher + recording.actions.sum(1) * SECONDS
    tips = torch.stack((recording.state.pusher, moved), 1)[:, None]
    assert isinstance(twin, PushTwin)
    return twin.gap(poses, tips)


CONTACT = Evidence(contact_gap, 3e-4)
"""Real pushes start and end in contact, to about 0.3 mm."""
