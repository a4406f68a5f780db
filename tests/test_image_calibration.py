"""Bodies are found in masks, frictions from masks lie within their intervals, and what cannot be is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from structwm.data import load_push_t
from structwm.demos.image_calibration import (
    block_cameras,
    block_world,
    drawn_masks,
    film_block,
    fit_push_t,
    friction_from_images,
    overlay,
    pixel,
    planar_error,
    sliding,
)
from structwm.demos.mask_tracking import moved, planar, track_on_plane
from structwm.physics import ImageMeasurement, RigidTwin, Settings, calibrate, surface_splats

HALF = (0.06, 0.04, 0.03)


def twin() -> RigidTwin:
    world, camera = block_world(HALF, pusher=False), block_cameras()
    looks = {"block": surface_splats(world.body("block").geometries, spacing=pixel(camera, torch.zeros(3)))}
    return RigidTwin(world, dt=1 / 24, substeps=20, appearance=looks)


def path(runs: int = 2, images: int = 5) -> Tensor:
    """Poses (runs, images, 7) along which blocks slide and turn."""
    start = torch.tensor([0.0, 0.0, 0.03, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(runs, images, 7)
    by = torch.tensor([[0.03, 0.01, 0.15], [0.02, -0.015, -0.3]], dtype=torch.float64)[:runs, None] * torch.arange(images)[:, None]
    return moved(start, by)


def test_moved_and_planar_are_inverse() -> None:
    poses = path()
    torch.testing.assert_close(planar(poses)[1, 3], torch.tensor([0.06, -0.045, -0.9], dtype=torch.float64))
    back = moved(poses, -planar(poses) * torch.tensor([1.0, 1.0, 0.0]))
    assert back[..., :2].abs().max() < 1e-12 and torch.equal(back[..., 2], poses[..., 2])
    torch.testing.assert_close(planar_error(poses[0], poses[0]), torch.zeros(5, 2, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(planar_error(poses[0], poses[0, :1].expand(5, 7))[2], torch.tensor([0.06325, 0.3], dtype=torch.float64), rtol=0, atol=1e-5)


def test_bodies_are_found_in_masks() -> None:
    """To a tenth of a pixel (which is 8 mm there) in soft masks, to a fifth of one in black and white; an image that is missing is left out and passed over."""
    poses, camera, look = path(), block_cameras(), twin().appearance["block"]
    masks = drawn_masks(twin(), poses, camera)
    found = track_on_plane(look, masks, camera, poses[:, 0])
    error = planar(found) - planar(poses)
    assert error[..., :2].abs().max() < 1e-4 and error[..., 2].abs().max() < 2e-3
    hard = (masks > 0.5).float()
    hard[0, 2] = torch.nan
    found = track_on_plane(look, hard, camera, moved(poses[:, 0], torch.tensor([0.008, -0.005, 0.05]).double()))
    assert found[0, 2].isnan().all() and found.isfinite().all(-1).sum() == 9
    error = (planar(found) - planar(poses)).nan_to_num(0.0)
    assert error[..., :2].abs().max() < 2.5e-3 and error[..., 2].abs().max() < 0.05


def test_what_cannot_be_tracked_is_refused() -> None:
    poses, camera, look = path(1, 2), block_cameras(), twin().appearance["block"]
    masks = torch.zeros(1, 2, 2, camera.height, camera.width)
    cases = (
        ((look, masks[..., :-1], camera, poses[:, 0]), {}, r"needs masks \(N, T, 2, 72, 96\), got \(1, 2, 2, 72, 95\)"),
        ((look, masks, camera, poses[0, 0]), {}, r"start poses \(1, 7\), got \(7,\)"),
        ((look, masks, camera, poses[:, 0]), {"tile": 5}, "a tile that divides 96 x 72 pixels, got 5"),
        ((look, masks, camera, poses[:, 0] + torch.tensor([9.0, 0, 0, 0, 0, 0, 0])), {}, "The body is in none of the pictures"),
    )
    for arguments, options, text in cases:
        with pytest.raises(ValueError, match=text) as caught:
            track_on_plane(*arguments, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_runs_are_cut_where_bodies_are_fastest() -> None:
    camera = block_cameras()
    steps = torch.tensor([0.0, 0.02, 0.05, 0.07, 0.08, 0.085])
    poses = path(1, 1).expand(1, 6, 7).clone()
    poses[0, :, 0] = steps
    world = block_world(HALF, pusher=False)
    slide = sliding(world, torch.zeros(0), camera, poses[:, 0], tracked=poses, horizon=7)
    assert slide.begin == 2 and slide.recording.actions.shape == (1, 7, 0)
    assert slide.recording.state.velocity[0, 0].item() == pytest.approx(0.02 * 24, rel=1e-4)
    assert slide.recording.observed["x"][0].isfinite().sum() == 4
    with pytest.raises(ValueError, match="two images or more after the pusher let go; it did at image 5 of 6"):
        sliding(world, torch.zeros(0), camera, poses[:, 0], tracked=poses, begin=5)
    with pytest.raises(ValueError, match="a world of one body, got pusher, block"):
        sliding(block_world(), torch.zeros(0), camera, poses[:, 0], tracked=poses)


def test_pictures_show_what_differs() -> None:
    seen, drawn = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    grey, blue, red, white = overlay(seen, drawn)[0]
    assert grey[0] == grey[1] == grey[2] and blue[2] > blue[0] and red[0] > red[2] and bool((white == 1).all())


def test_masks_cover_what_their_bodies_do() -> None:
    """A mask is about as large as the body: without antialiasing it would grow by a pixel on each side, and put the body farther away."""
    camera, near = block_cameras(), twin()
    pose = path(1, 1)[:, 0]
    pixels, _ = camera[:1].project(torch.tensor(near.world.body("block").geometries[0].shape.hull.vertices).float() + pose[0, :3].float())  # type: ignore[union-attr]
    area = ConvexHull(pixels[0].double().numpy()).volume
    state = near.state(pose.float())
    trajectory = near.rollout(state, torch.zeros(1, 1, 0))
    grown = {}
    for antialiased in (True, False):
        measurement = ImageMeasurement(torch.zeros(1, 2, 2, 72, 96), camera, tile=1, antialiased=antialiased)
        grown[antialiased] = float(measurement.residual(trajectory)["masks"][0, 0, : 72 * 96].sum()) / area
    assert grown[True] == pytest.approx(1.0, abs=0.12) and grown[False] > grown[True] + 0.1


def test_a_single_run_with_fitted_starts_has_an_interval() -> None:
    """Where the parameters move, the fitted starts follow: errors that are independent do not widen the interval of a single run."""
    slid = twin().with_parameters({"block.friction": 0.2})
    begin = torch.zeros(1, 6)
    begin[:, 0], begin[:, 5] = 0.8, 1.5
    state = slid.state(path(1, 1)[:, 0].float(), begin)
    poses = slid.scene.poses(slid.rollout(state, torch.zeros(1, 8, 0)).states)[:, :, 0].double()
    noise = 3e-4 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slide = sliding(block_world(HALF, pusher=False), torch.zeros(0), block_cameras(), poses[:, 0], begin=0, tracked=moved(poses, noise))
    found = calibrate(slide.twin, slide.recording, ["block.friction"], held_out=None, settings=Settings(evaluations=0, block=1), progress=False)
    low, high = found.intervals()["block.friction"]
    assert found.inflation < 10 and low < 0.2 < high and high - low < 0.05


@pytest.mark.slow
def test_friction_from_masks_alone() -> None:
    """On a block, a friction and pushes that are none of the demo's."""
    pytest.importorskip("pybullet")
    images = film_block(0.25, half=(0.05, 0.045, 0.025), seed=7)
    found = friction_from_images(images)
    low, high = found.intervals()["block.friction"]
    assert low < 0.25 < high and high - low < 0.06 and found.values["block.friction"] == pytest.approx(0.25, rel=0.05)


def test_frictions_that_cannot_be() -> None:
    for friction in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="film_block needs a friction above 0, got"):
            film_block(friction)


@pytest.mark.slow
def test_the_rest_of_a_push_from_its_first_images(data_dir: Callable[[str], Path]) -> None:
    pytest.importorskip("PIL")
    images = load_push_t(data_dir("pinwm_push_t"), size=100)
    fit = fit_push_t(images)
    error, still = fit.errors.mean(0), fit.still.mean(0)
    assert error[0] < 0.15 * still[0] and error[1] < 0.6 * still[1] and fit.errors.shape == (20, 2) and 3 <= fit.slide.begin <= 5
    assert fit.calibration.values["block.friction"] == pytest.approx(0.03, rel=0.2)  # as the speeds of the true poses fall
    for fitted in (3, 32):
        with pytest.raises(ValueError, match=f"needs 4 to 31 images to fit, got {fitted}"):
            fit_push_t(images, fitted=fitted)
