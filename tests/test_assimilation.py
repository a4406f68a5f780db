"""States estimated from tracks and clouds with holes, and recordings cut into pieces that start from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from structwm.physics import Recording, SpringBody, SpringTwin, Trust, estimate_states, fit_springs, spring_recording

DT, INSTANTS, SPACING = 1 / 30, 25, 0.02
TRUE = {"stiffness": 2.0, "damping": 4e-3, "attachment_stiffness": 20.0, "drag": 0.3}


def slab() -> SpringBody:
    """A bar of 8 x 3 x 2 particles, of which a gripper holds an end."""
    axes = (torch.arange(8.0), torch.arange(3.0), torch.arange(2.0))
    points = SPACING * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).double()
    body = SpringBody.from_points(points, radius=0.036, neighbours=26)
    return body.with_controllers(points[:6] - torch.tensor([0.005, 0.0, 0.0]), groups=(range(6),), attach=0.03)


def made(**values: float) -> SpringTwin:
    return SpringTwin(slab(), dt=DT, substeps=40, stages=4, values={**TRUE, **values})


def swung(*, hidden: float = 0.4, noise: float = 0.001) -> tuple[Tensor, Tensor, Recording]:
    """Places and velocities (1, T, P, 3) of a bar that is swung, and what was seen of it."""
    twin, generator = made(), torch.Generator().manual_seed(0)
    t = DT * torch.arange(INSTANTS, dtype=torch.float64)
    path = twin.body.positions[twin.body.points :].mean(0).expand(1, INSTANTS, 1, 3).clone()
    path[0, :, 0, 2] += 0.05 * torch.sin(8 * t)
    path[0, :, 0, 1] += 0.04 * torch.sin(5 * t)
    start = spring_recording(twin, path, tracks=torch.zeros(1, INSTANTS, 1, 3))
    with torch.no_grad():
        states = twin.rollout(start.state, start.actions).states
    truth = states.positions[:, :, : twin.body.points]
    tracks = truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    tracks[torch.rand(truth.shape[:-1], generator=generator) < hidden] = math.nan
    return truth, states.velocities[:, :, : twin.body.points], spring_recording(twin, path, tracks=tracks)


def test_states_are_found_by_a_twin_that_is_wrong() -> None:
    truth, speeds, recording = swung()
    twin = made(stiffness=6.0, damping=1e-3)
    with torch.no_grad():
        predicted = twin.rollout(recording.state, recording.actions).states
    found = estimate_states(twin, recording)
    assert tuple(found.batch_size) == (1, INSTANTS)
    points = twin.body.points
    error = (found.positions[:, 1:, :points] - truth[:, 1:]).norm(dim=-1)
    assert float(error.mean()) < 0.003 < 0.1 * float((predicted.positions[:, 1:, :points] - truth[:, 1:]).norm(dim=-1).mean())
    unseen = recording.measurements[0].measured[:, 1:].isnan().any(-1)
    assert float(error[unseen].mean()) < 0.004
    late = (found.velocities[:, 2:-1, :points] - speeds[:, 2:-1]).norm(dim=-1).mean()
    assert float(late) < 0.07 < 0.2 * float((predicted.velocities[:, 2:-1, :points] - speeds[:, 2:-1]).norm(dim=-1).mean())
    driven = ~twin.body.free
    assert torch.allclose(found.positions[:, :, driven], predicted.positions[:, :, driven], atol=1e-7)


def test_frames_that_are_missing_are_predicted() -> None:
    truth, _, recording = swung()
    tracks = recording.measurements[0].measured.clone()
    tracks[:, 10:12] = math.nan
    gaps = replace(recording, measurements=(replace(recording.measurements[0], positions=tracks),))
    twin = made()
    found = estimate_states(twin, gaps)
    assert bool(found.positions.isfinite().all())
    assert float((found.positions[:, 10:12, : twin.body.points] - truth[:, 10:12]).norm(dim=-1).mean()) < 0.005
    alone = estimate_states(twin, gaps.until(9))
    ahead = twin.rollout(alone[:, -1], gaps.actions[:, 9:10]).states.positions[:, -1]
    assert torch.allclose(ahead, found.positions[:, 10], atol=1e-9)


def test_pieces_of_a_recording_start_from_its_states() -> None:
    _, _, recording = swung()
    twin = made()
    with torch.no_grad():
        states = twin.rollout(recording.state, recording.actions).states
        pieces = recording.windows(states, 6, 5)
        assert len(pieces) == 4 and pieces.actions.shape[1] == 6 and pieces.runs.tolist() == [0, 0, 0, 0]
        whole = recording.compare(twin.rollout(recording.state, recording.actions))["tracks"]
        parts = pieces.compare(twin.rollout(pieces.state, pieces.actions))["tracks"]
    for k in range(4):
        assert torch.allclose(parts[k].nan_to_num(), whole[0, 5 * k : 5 * k + 6].nan_to_num(), atol=1e-4)  # restarts lose half a substep of the leapfrog
    with pytest.raises(ValueError, match="a length from 1 to 24"):
        recording.windows(states, 25, 1)
    with pytest.raises(ValueError, match=r"states \(N, H\+1\) = \(1, 25\)"):
        recording.windows(states[:, 1:], 5, 5)


def test_material_is_found_by_gradients_over_pieces() -> None:
    _, _, recording = swung(hidden=0.2)
    wrong = made(stiffness=5.0, damping=1.5e-3)
    pieces = recording.windows(estimate_states(wrong, recording), 8, 5)
    fit = fit_springs(wrong, pieces, each=False, steps=20, held_back=0.0, progress=False)
    assert fit.twin.factors is None and fit.kept > 0
    assert float(fit.twin.values["stiffness"]) == pytest.approx(TRUE["stiffness"], rel=0.15)
    only = fit_springs(wrong, pieces, each=False, also=("drag",), steps=2, held_back=0.0, progress=False)
    assert float(only.twin.values["stiffness"]) == 5.0


def test_bad_input_is_refused() -> None:
    _, _, recording = swung()
    twin = made()
    with pytest.raises(ValueError, match="needs parameters"):
        fit_springs(twin, recording, also=(), each=False)
    with pytest.raises(ValueError, match="apart"):
        Trust(apart=0.0)
    bare = replace(recording, measurements=(), observed={"p0.x": torch.zeros(1, INSTANTS)}, scale={"p0.x": 1.0})
    with pytest.raises(ValueError, match="estimated from measurements"):
        estimate_states(twin, bare)
