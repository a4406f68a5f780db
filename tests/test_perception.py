"""Scenes fitted to pictures, poses from silhouettes, likeness of images."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from structwm.geometry.camera import Camera
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_motion import place_splats
from structwm.perception import SplatFitSettings, align_splats, fit_splats, mask_overlap, points_in_view, psnr, ssim
from structwm.render import render, splats_from_points
from structwm.state import Points, Splats

pytestmark = pytest.mark.usefixtures("one_thread")


def torus() -> Splats:
    """A coloured, uneven ring of 1.5 m."""
    u, v = torch.meshgrid(torch.linspace(0, 2 * math.pi, 61)[:-1], torch.linspace(0, 2 * math.pi, 21)[:-1], indexing="ij")
    radius = 0.25 + 0.08 * torch.sin(3 * u) * (u > 1)
    points = torch.stack(((0.6 + radius * v.cos()) * u.cos(), (0.6 + radius * v.cos()) * u.sin(), radius * v.sin()), -1).reshape(-1, 3)
    colors = 0.5 + 0.5 * torch.stack((torch.sin(3 * u), torch.cos(2 * v), torch.sin(u + v)), -1).reshape(-1, 3)
    return splats_from_points(points, colors, opacity=0.95)


def around(count: int, width: int = 48, height: int = 36) -> Camera:
    angle = torch.arange(count) * 2.4
    lift = 0.3 + 0.6 * torch.arange(count) / count
    eyes = 2.5 * torch.stack((angle.cos() * lift.cos(), angle.sin() * lift.cos(), lift.sin()), -1)
    return Camera.look_at(eyes, torch.zeros(3), width=width, height=height)


def test_a_scene_fitted_to_pictures_shows_views_that_it_never_saw() -> None:
    camera = around(12)
    with torch.no_grad():
        images = render(torus(), camera, background=(0.2, 0.2, 0.2)).image.clamp(0, 1)
    seen = []
    settings = SplatFitSettings(iterations=240, splats=1500, refine_every=40, evaluate_every=80, rate=2.0)
    fit = fit_splats(images, camera, held_out=(3, 9), background=(0.2, 0.2, 0.2), settings=settings, progress=seen.append)
    assert tuple(seen) == fit.history and [step.iteration for step in fit.history] == [80, 160, 240]
    blank = float(psnr(torch.full_like(images[3], 0.2), images[3]))
    assert fit.last.held_out_psnr is not None and fit.last.held_out_psnr > blank + 5 and fit.last.psnr > fit.history[0].psnr + 1
    assert 750 <= fit.last.splats == len(fit.splats.means) <= 1500
    again = float(psnr(render(fit.splats, camera[3], background=(0.2, 0.2, 0.2)).image.clamp(0, 1), images[3]))
    other = float(psnr(render(fit.splats, camera[9], background=(0.2, 0.2, 0.2)).image.clamp(0, 1), images[9]))
    assert (again + other) / 2 == pytest.approx(fit.last.held_out_psnr, abs=1e-3)
    short = replace(settings, iterations=40, refine_every=10)
    first, second = (fit_splats(images, camera, settings=short).splats for _ in range(2))
    assert torch.equal(first.means, second.means)


def test_with_masks_nothing_is_left_outside_of_them() -> None:
    camera = around(8)
    with torch.no_grad():
        seen = render(torus(), camera, background=(1.0, 1.0, 0.0))
    masks = seen.alpha > 0.5
    settings = SplatFitSettings(iterations=150, splats=800, refine_every=50, rate=2.0)
    fit = fit_splats(seen.image.clamp(0, 1), camera, masks=masks, settings=settings)
    assert mask_overlap(render(fit.splats, camera).alpha, masks).mean() > 0.8
    first = SplatFitSettings(iterations=1, resets=())
    known, unknown = (fit_splats(seen.image.clamp(0, 1), camera, masks=masks, initial=start, settings=first) for start in (torus(), None))
    assert known.last.psnr > unknown.last.psnr + 5


def test_points_to_start_from_lie_where_the_masks_meet() -> None:
    camera = around(6)
    masks = render(torus(), camera).alpha > 0.5
    points = points_in_view(camera, 200, masks=masks, seed=1)
    assert points.shape == (200, 3)
    pixels, _ = camera.project(points)
    inside = ((pixels >= 0) & (pixels < torch.tensor([48, 36]))).all(-1)
    for view, (pixel, sees) in enumerate(zip(pixels.long(), inside, strict=True)):
        assert masks[view, pixel[sees, 1], pixel[sees, 0]].all()
    assert (inside.sum(0) >= 3).all()
    assert torch.equal(points, points_in_view(camera, 200, masks=masks, seed=1))
    single = points_in_view(camera[:1], 50)
    pixels, depth = camera[:1].project(single)
    assert (depth > 0).all() and (pixels >= 0).all() and (pixels <= torch.tensor([48, 36])).all()
    with pytest.raises(ValueError, match="found no point within all of them"):
        points_in_view(camera, 10, masks=torch.zeros_like(masks))


@pytest.mark.parametrize("seed", range(2))
def test_a_displaced_object_is_found_by_its_silhouettes(seed: int) -> None:
    """Moved by 0.1 m and 8 degrees, without any overlap of pictures needed; back within 5 mm and half a degree, from four views of 96 x 72 pixels."""
    splats, camera = torus(), around(4, 96, 72)
    masks = render(splats, camera).alpha > 0.5
    axis, direction = torch.nn.functional.normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(math.radians(8) * axis))
    found = align_splats(place_splats(splats, turn, 0.1 * direction), camera, masks, stages=((0.5, 60), (1.0, 40)), step=0.02)
    whole = found.world_from_scene[:3, :3] @ turn
    place = found.world_from_scene[:3, :3] @ (0.1 * direction) + found.world_from_scene[:3, 3]
    assert place.norm() < 0.005 and math.degrees(math.acos(min(1.0, (float(whole.trace()) - 1) / 2))) < 0.5
    assert found.overlaps.min() > 0.97 and found.losses[-1] < 0.3 * found.losses[0]


def ell() -> Splats:
    """An L of 30 cm, thin against the pixels of small pictures."""
    generator = torch.Generator().manual_seed(0)
    long = torch.rand(400, 3, generator=generator) * torch.tensor([0.3, 0.04, 0.04])
    short = torch.rand(250, 3, generator=generator) * torch.tensor([0.04, 0.18, 0.04])
    return splats_from_points(torch.cat((long, short)) - torch.tensor([0.12, 0.05, 0.02]), scale=0.006, opacity=0.9)


def test_an_object_in_its_place_stays_there_and_returns_to_it() -> None:
    """A thin object in small pictures, with the stages that a user gets: the blur of coarse pictures must not push it away."""
    splats, camera = ell(), Camera.look_at(around(4).world_from_camera[:, :3, 3] * 0.4, torch.zeros(3), width=160, height=120, field_of_view=0.6)
    masks = render(splats, camera).alpha > 0.5
    assert (align_splats(splats, camera, masks).world_from_scene - torch.eye(4)).abs().max() < 0.005
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.1, -0.05, 0.15])))
    found = align_splats(place_splats(splats, turn, torch.tensor([0.02, -0.01, 0.01])), camera, masks)
    moved = splats.means @ turn.mT + torch.tensor([0.02, -0.01, 0.01])
    back = moved @ found.world_from_scene[:3, :3].mT + found.world_from_scene[:3, 3]
    assert (back - splats.means).norm(dim=-1).mean() < 0.003 and found.overlaps.min() > 0.9


def shiny() -> tuple[Camera, Splats]:
    """The torus, whose colours change with the side from which it is seen."""
    splats = torus()
    splats.harmonics = torch.zeros(len(splats.means), 3, 3)
    splats.harmonics[:, 2] = torch.tensor([0.6, -0.6, 0.3])
    return around(10), splats


def test_harmonics_fit_what_changes_with_the_view() -> None:
    camera, splats = shiny()
    with torch.no_grad():
        images = render(splats, camera).image.clamp(0, 1)
    settings = SplatFitSettings(iterations=120, splats=1200, refine_every=1000, resets=(), rate=12.0)
    found = [fit_splats(images, camera, held_out=(4,), initial=splats.replace(harmonics=None), settings=replace(settings, degree=degree)) for degree in (0, 1)]
    assert found[1].splats.harmonics is not None and found[1].splats.harmonics.shape == (len(found[1].splats.means), 3, 3)
    assert found[1].last.psnr > found[0].last.psnr + 0.5 and found[1].last.held_out_psnr > found[0].last.held_out_psnr + 0.3


def test_each_part_of_the_loss_lowers_itself() -> None:
    camera = around(6)
    with torch.no_grad():
        images = render(torus(), camera).image.clamp(0, 1)
    settings = SplatFitSettings(iterations=60, splats=900, refine_every=1000, resets=(), rate=3.0)
    found = [fit_splats(images, camera, settings=replace(settings, structural=share)).splats for share in (0.0, 1.0)]
    likeness = [float(ssim(render(splats, camera).image.clamp(0, 1), images).mean()) for splats in found]
    absolute = [float((render(splats, camera).image.clamp(0, 1) - images).abs().mean()) for splats in found]
    assert likeness[1] > likeness[0] and absolute[0] < absolute[1]


def test_smaller_pictures_and_antialiasing_fit_scenes_for_other_sizes() -> None:
    """Fitted at a quarter of the size; with antialiasing the scene is more like the truth at full size."""
    camera = around(8, 96, 72)
    with torch.no_grad():
        images = render(torus(), camera).image.clamp(0, 1)
    settings = SplatFitSettings(iterations=150, splats=1200, refine_every=1000, resets=(), rate=3.0, size=0.25)
    start = torus().means + 0.02 * torch.randn(1200, 3, generator=torch.Generator().manual_seed(0))
    likeness = []
    for antialiased in (False, True):
        fit = fit_splats(images, camera, initial=start, settings=replace(settings, antialiased=antialiased))
        likeness.append(float(psnr(render(fit.splats, camera, antialiased=antialiased).image.clamp(0, 1), images).mean()))
    assert likeness[1] > likeness[0]


def test_silhouettes_above_a_level() -> None:
    alpha = torch.tensor([[[0.1, 0.4], [0.6, 0.9]]])
    masks = torch.tensor([[[False, True], [True, True]]])
    for level, overlap in ((0.5, 2 / 3), (0.3, 1.0), (0.05, 3 / 4), (0.95, 0.0)):
        torch.testing.assert_close(mask_overlap(alpha, masks, level=level), torch.tensor([overlap]))


def test_cameras_moved_with_a_scene_see_the_same() -> None:
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.2, -0.4, 0.9])))
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = turn, torch.tensor([0.5, -1.0, 2.0])
    camera = around(3)
    still, together = (render(splats, view).image for splats, view in ((torus(), camera), (place_splats(torus(), turn, motion[:3, 3]), camera.moved(motion))))
    torch.testing.assert_close(together, still, atol=2e-3, rtol=0)
    assert (render(torus(), camera.moved(motion)).image - still).abs().max() > 0.1


def test_odd_starts_of_a_fit() -> None:
    """One splat, opaque splats, points of the contract, no gradients around, a view that the object is not in."""
    camera = around(4)
    with torch.no_grad():
        seen = render(torus(), camera)
        images, masks = seen.image.clamp(0, 1), seen.alpha > 0.5
        masks[2] = False
        few = SplatFitSettings(iterations=3, splats=1200, resets=(1.0,), refine_every=1, refine_from=0.0)
        assert fit_splats(images, camera, masks=masks, settings=few).last.iteration == 3
        assert fit_splats(images, camera, initial=torus(), settings=few).splats.opacities.max() > 0.9
        points = Points(positions=torus().means, batch_size=[])
        assert len(fit_splats(images, camera, initial=points, settings=SplatFitSettings(iterations=1, splats=1200)).splats.means) == 1200
        one = fit_splats(images, camera, initial=torch.zeros(1, 3), settings=SplatFitSettings(iterations=2, splats=1))
        assert one.splats.means.isfinite().all()
    for initial, message in (
        (torus(), "at most settings.splats = 5 initial splats, got 1200"),
        (torch.full((3, 3), math.nan), "finite initial points"),
        (torus().replace(harmonics=torch.zeros(1200, 3, 3)), "at most settings.degree = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_splats(images, camera, initial=initial, settings=SplatFitSettings(iterations=1, splats=5))
    nonsense = [{"structural": 1.1}, {"structural": math.nan}, {"refine_from": 0.7}, {"refine_until": 1.5}, {"resets": (2.0,)}, {"gradient": math.nan}]
    nonsense += [{"prune_above": -1.0}, {"split_above": -1.0}, {"prune_below": -0.1}]
    for bad in ({"refine_every": 0}, {"evaluate_every": 0}, {"rate": math.nan}, *nonsense):
        with pytest.raises(ValueError, match="splat fit settings"):
            SplatFitSettings(**bad)


def test_what_cannot_be_fitted_is_refused() -> None:
    camera = around(2)
    images = torch.rand(2, 36, 48, 3)
    for arguments, message in (
        ((images[:1], camera), "expected images"),
        ((255 * images, camera), r"in \[0, 1\]"),
        ((images.byte(), camera), "floating point"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_splats(*arguments)
    with pytest.raises(ValueError, match="one left to fit"):
        fit_splats(images, camera, held_out=(0, -1))
    with pytest.raises(ValueError, match="expected bool masks"):
        fit_splats(images, camera, masks=torch.rand(2, 36, 48))
    with pytest.raises(ValueError, match=r"expected initial points \(N, 3\)"):
        fit_splats(images, camera, initial=torch.rand(0, 3))
    with pytest.raises(ValueError, match="splat fit settings"):
        SplatFitSettings(iterations=0)
    with pytest.raises(ValueError, match="expected bool masks, at least one splat and one stage"):
        align_splats(torus(), camera, torch.ones(2, 36, 48))
    with pytest.raises(ValueError, match="an empty one for view 1"):
        align_splats(torus(), camera, torch.stack((torch.ones(36, 48, dtype=torch.bool), torch.zeros(36, 48, dtype=torch.bool))))
    with pytest.raises(ValueError, match="expected one scene, V cameras and masks"):
        align_splats(torus(), camera, torch.ones(36, 48, dtype=torch.bool))


def test_structural_similarity_is_that_of_its_paper() -> None:
    """Against windows of SciPy, truncated at five pixels, zeros beyond the image."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 20, 31, 3, generator=generator)
    b = (0.6 * a + 0.4 * torch.rand(2, 20, 31, 3, generator=generator)).clamp(0, 1)

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, (1.5, 1.5, 0), truncate=5 / 1.5, mode="constant")

    for x, y, ours in zip(a.double().numpy(), b.double().numpy(), ssim(a, b), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        expected = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()
        assert float(ours) == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(ssim(a, a), torch.ones(2))


def test_likeness_by_hand() -> None:
    image, target = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    image[0, 0] = 0.1
    assert float(psnr(image, target)) == pytest.approx(-10 * math.log10(0.01 / 4))
    assert float(psnr(image, target, mask=torch.tensor([[True, False], [False, False]]))) == pytest.approx(20)
    alpha, mask = torch.tensor([[0.6, 0.4, 0.9]]), torch.tensor([[True, True, False]])
    assert float(mask_overlap(alpha, mask)) == pytest.approx(1 / 3)
    assert float(mask_overlap(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool))) == 1
