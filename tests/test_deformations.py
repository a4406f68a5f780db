"""Splats with deformation gradients: drawn, moved, baked and saved as splats of the covariance F R diag(scales)^2 R^T F^T."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import LazyStackedTensorDict
from torch import Tensor

from structwm.data import read_splats, write_splats
from structwm.geometry.camera import Camera
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.skinning import bake_deformations, skin_splats, skinning_weights
from structwm.geometry.splat_motion import place_splats
from structwm.kernels.splat_raster import project_splats
from structwm.perception import SplatFitSettings, align_splats, fit_splats
from structwm.render import RecordedBackend, per_pixel_backend, render, stack_scenes
from structwm.state import Points, Splats

from .splats import random_splats, ring

F64 = torch.float64


def deformed(count: int, *, seed: int = 0, dtype: torch.dtype = F64, **fields: Any) -> Splats:
    splats = random_splats(count, seed=seed, dtype=dtype, **fields)
    noise = torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    splats.deformations = (torch.eye(3, dtype=F64) + 0.3 * noise).to(dtype)
    return splats


def covariance(splats: Splats) -> Tensor:
    axes = quaternion_to_matrix(splats.rotations) * splats.scales.unsqueeze(-2)
    if splats.deformations is not None:
        axes = splats.deformations @ axes
    return axes @ axes.mT


def test_baked_splats_have_the_same_covariance_and_keep_the_rest() -> None:
    splats = deformed(50, degree=1, features=2)
    baked = bake_deformations(splats)
    assert baked.deformations is None and splats.deformations is not None
    torch.testing.assert_close(covariance(baked), covariance(splats))
    assert all(baked.get(name) is splats.get(name) for name in ("means", "opacities", "colors", "harmonics", "features"))
    assert bake_deformations(baked) is baked


@pytest.mark.parametrize("backend", ["warp", "reference", "per pixel", "recorded"])
def test_deformed_and_baked_splats_look_the_same(backend: str) -> None:
    dtype = F64 if backend == "reference" else torch.float32
    splats, camera = deformed(300, dtype=dtype, features=3), ring(2, dtype=dtype)
    by: Any = {"per pixel": per_pixel_backend.draw, "recorded": RecordedBackend()}.get(backend, backend)
    for _ in range(2):  # the recorded one draws the second time from its graph
        seen = render(splats, camera, backend=by)
        plain = render(bake_deformations(splats), camera, backend=by)
        for name in ("image", "depth", "alpha", "features"):
            torch.testing.assert_close(getattr(seen, name), getattr(plain, name), rtol=1e-3, atol=2e-4)
    assert not torch.allclose(seen.image, render(random_splats(300, dtype=dtype, features=3), camera, backend=by).image, atol=0.01)


def test_gradients_of_projection_by_deformations_are_those_of_finite_differences() -> None:
    splats, camera = deformed(6), ring(2, dtype=F64)
    splats.means[0] = torch.tensor([0.0, 2.5, 0.5])  # beyond the margin, where the Jacobian stands still
    given = (splats.means, splats.rotations, splats.scales, camera.camera_from_world[:, :3], splats.deformations)
    leaves = [value.unsqueeze(0).clone().requires_grad_() for value in given]

    def project(means: Tensor, rotations: Tensor, scales: Tensor, pose: Tensor, deformations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centres, conics, depths = project_splats(means, rotations, scales, pose, camera.pinholes[None], 60, 44, 0.2, 100.0, 0.3, deformations)
        return centres / 100, conics, depths

    assert torch.autograd.gradcheck(project, leaves, eps=1e-6, atol=1e-6, rtol=1e-4)
    torch.library.opcheck(project_splats, (*(value.detach().float() for value in leaves[:4]), camera.pinholes[None].float(), 60, 44, 0.2, 100.0, 0.3,
                                           leaves[4].detach().float()))  # fmt: skip


def test_nodes_that_carry_round_splats_get_exact_gradients() -> None:
    """Rotations and scales of a round splat cannot say how a picture depends on its shear; its deformation can."""
    generator = torch.Generator().manual_seed(0)
    splats, camera = random_splats(40, dtype=F64), ring(1, dtype=F64)
    splats.scales = splats.scales.mean(-1, keepdim=True).expand(-1, 3).clone()
    nodes = 2 * torch.rand(6, 3, generator=generator, dtype=F64) - 1
    skin = skinning_weights(splats.means, nodes, k=3)
    maps = torch.eye(3, dtype=F64).expand(6, 3, 3).clone()
    direction = torch.randn(6, 3, 3, generator=generator, dtype=F64)
    weights = torch.randn(44, 60, 3, generator=generator, dtype=F64)

    def loss(maps: Tensor, *, keep: bool) -> Tensor:
        moved = skin_splats(splats, skin, nodes, nodes, maps=maps, deformed=keep)
        return (weights * render(moved, camera[0], backend="reference").image).sum()

    step = 1e-5
    true = float(loss(maps + step * direction, keep=True) - loss(maps - step * direction, keep=True)) / (2 * step)
    slopes = []
    for keep in (True, False):
        leaf = maps.clone().requires_grad_()
        slopes.append(float((torch.autograd.grad(loss(leaf, keep=keep), leaf)[0] * direction).sum()))
    assert abs(slopes[0] - true) <= 1e-4 * abs(true)
    assert abs(slopes[1] - true) > 1e-3 * abs(true)  # what is lost when they are baked
    torch.testing.assert_close(loss(maps + 0.1 * direction, keep=True), loss(maps + 0.1 * direction, keep=False))


def test_kernels_and_reference_agree_on_gradients_by_deformations() -> None:
    splats, camera = deformed(200, dtype=torch.float32), ring(2)
    found = []
    for backend, dtype in (("warp", torch.float32), ("reference", F64)):
        scene = splats.to(dtype)
        leaf = scene.deformations.clone().requires_grad_()
        scene.deformations = leaf
        seen = render(scene, camera.to(dtype), backend=backend)  # type: ignore[arg-type]
        found.append(torch.autograd.grad((seen.image * torch.linspace(-1, 1, seen.image.numel(), dtype=dtype).view(seen.image.shape)).sum(), leaf)[0])
    assert (found[0] - found[1]).abs().max() <= 1e-3 * found[1].abs().max()


def test_moved_deformed_splats_are_moved_baked_ones() -> None:
    splats = deformed(30)
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.3, -0.5, 1.0], dtype=F64)))
    moved, plain = (place_splats(value, turn, torch.tensor([1.0, 2.0, 3.0], dtype=F64), 1.7) for value in (splats, bake_deformations(splats)))
    torch.testing.assert_close(covariance(moved), covariance(plain))
    torch.testing.assert_close(moved.means, plain.means)


def test_files_hold_baked_splats(tmp_path: Path) -> None:
    splats = deformed(20, dtype=torch.float32)
    write_splats(splats, tmp_path / "splats.ply")
    torch.testing.assert_close(covariance(read_splats(tmp_path / "splats.ply")), covariance(splats), rtol=1e-4, atol=1e-7)


def test_stacked_scenes_are_padded_with_the_identity() -> None:
    scenes = [deformed(count, dtype=torch.float32, seed=count) for count in (9, 5)]
    stacked = stack_scenes(scenes)
    assert torch.equal(stacked.deformations[1, 5:], torch.eye(3).expand(4, 3, 3))
    camera = ring(1)[0]
    shared = Camera(camera.intrinsics[None], camera.world_from_camera[None], camera.width, camera.height)
    assert torch.equal(render(stacked, shared).image[1], render(scenes[1], camera).image)
    with pytest.raises(ValueError, match="stack_scenes: expected scenes with the same kind of deformations"):
        stack_scenes([scenes[0], random_splats(4)])


def test_bad_deformations_are_refused() -> None:
    splats = deformed(5, dtype=torch.float32)
    splats.deformations[2, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="splats deformations: expected finite numbers, got .* for splat 2"):
        render(splats, ring(1))
    splats.deformations = torch.eye(3).expand(4, 3, 3)
    with pytest.raises(ValueError, match=r"splats deformations: expected \(5, 3, 3\), got \(4, 3, 3\)"):
        render(splats, ring(1))


def test_deformations_compose_outermost_first() -> None:
    splats = deformed(40)
    nodes = splats.means[:8]
    skin = skinning_weights(splats.means, nodes, k=3)
    maps = torch.eye(3, dtype=F64) + 0.2 * torch.randn(8, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
    moved = skin_splats(splats, skin, nodes, nodes, maps=maps, deformed=True)
    torch.testing.assert_close(covariance(skin_splats(splats, skin, nodes, nodes, maps=maps)), covariance(moved))
    torch.testing.assert_close(covariance(skin_splats(bake_deformations(splats), skin, nodes, nodes, maps=maps)), covariance(moved))


def test_rollouts_and_worlds_of_deformed_splats_are_drawn_as_alone() -> None:
    splats, camera = random_splats(60, dtype=torch.float32), ring(1)
    nodes = splats.means[:6]
    skin = skinning_weights(splats.means, nodes, k=3)
    maps = torch.eye(3) + 0.2 * torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(3))
    for keep in (True, False):
        rollout = skin_splats(splats, skin, nodes, nodes, maps=maps, deformed=keep)
        seen = render(rollout, Camera(camera.intrinsics, camera.world_from_camera[None], camera.width, camera.height))
        for step in range(4):
            alone = render(skin_splats(splats, skin, nodes, nodes, maps=maps[step], deformed=keep), camera)
            torch.testing.assert_close(seen.image[step], alone.image, atol=1e-5, rtol=1e-5)
    none = skin_splats(splats[None].expand(0), skin, nodes, nodes, maps=maps[:0])
    assert none.means.shape == (0, 60, 3) and none.scales.shape == (0, 60, 3)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_pictures_of_deformed_splats(backend: str) -> None:
    splats, camera = random_splats(80), ring(2)
    nodes = splats.means[:6]
    skin = skinning_weights(splats.means, nodes, k=3)

    def loss(maps: Tensor) -> Tensor:
        return render(skin_splats(splats, skin, nodes, nodes, maps=maps, deformed=True), camera).image.square().sum()

    maps = torch.eye(3) + 0.1 * torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(3))
    found = []
    for call in (loss, torch.compile(loss, backend=backend, fullgraph=True)):
        leaf = maps.clone().requires_grad_()
        value = call(leaf)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-4)


def test_threads_do_not_change_a_bit_of_deformed_splats() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            splats = deformed(5000, dtype=torch.float32)
            splats.deformations = splats.deformations.requires_grad_()
            image = render(splats, ring(1, width=130, height=90)).image
            found.append((image.detach(), torch.autograd.grad(image.square().sum(), splats.deformations)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_fits_and_alignments_take_deformed_splats() -> None:
    camera = ring(3)
    for dtype in (torch.float32, F64):
        splats = deformed(60, dtype=dtype)
        seen = render(splats.to(torch.float32), camera)
        fit = fit_splats(seen.image.clamp(0, 1), camera, initial=splats.to(torch.float32), settings=SplatFitSettings(iterations=1, splats=60))
        assert fit.last.psnr > 25 and fit.splats.deformations is None
        found = align_splats(splats, camera.to(dtype), seen.alpha > 0.5, stages=((1.0, 2),))
        assert found.world_from_scene.dtype == dtype and found.overlaps.min() > 0.9


def test_masks_and_indices_stay_what_they_are_in_a_cast() -> None:
    scenes = stack_scenes([deformed(count, dtype=torch.float32, seed=count) for count in (9, 5)])
    cast = scenes.to(F64)
    assert cast.mask.dtype == torch.bool and cast.deformations.dtype == F64 and scenes.to("cpu").mask.dtype == torch.bool
    torch.testing.assert_close(render(cast, ring(1, dtype=F64)[0], backend="reference").image.float(), render(scenes, ring(1)[0]).image, atol=1e-4, rtol=1e-4)
    cloud = Points(positions=torch.rand(3, 3), ids=torch.arange(3), batch_size=[]).to(F64)
    assert cloud.ids.dtype == torch.int64 and cloud.positions.dtype == F64
    again = pickle.loads(pickle.dumps(scenes))
    assert torch.equal(again.deformations, scenes.deformations) and torch.equal(scenes[1].deformations, scenes.deformations[1])


def test_bad_splats_are_not_baked_into_files(tmp_path: Path) -> None:
    for name, value, message in (
        ("rotations", 0.0, "rotations: expected finite quaternions"),
        ("scales", -1.0, "scales: expected finite numbers, none"),
        ("deformations", torch.nan, "deformations: expected finite"),
    ):
        splats = deformed(5, dtype=torch.float32)
        getattr(splats, name)[2] = value
        with pytest.raises(ValueError, match=message + ".* for splat 2"):
            write_splats(splats, tmp_path / "never.ply")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("grow", ["expand", "repeat"])
def test_gradients_by_worlds_that_share_their_memory_are_their_own(grow: str) -> None:
    splats = deformed(10)
    worlds = stack_scenes([splats] * 3).replace(mask=None)
    scales = splats.scales.expand(3, 10, 3).detach() if grow == "expand" else splats.scales.repeat(3, 1, 1)
    rotations = splats.rotations.expand(3, 10, 4)
    scales.requires_grad_()
    baked = bake_deformations(worlds.replace(scales=scales, rotations=rotations))
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=F64)[:, None, None]
    (by,) = torch.autograd.grad((weights * baked.scales).sum(), scales)
    torch.testing.assert_close(by, weights * by[:1])
    assert by.abs().min() > 0


def test_casts_of_locked_lazy_and_mapped_containers(tmp_path: Path) -> None:
    scenes = stack_scenes([deformed(count, dtype=torch.float32, seed=count) for count in (9, 5)])
    ragged = LazyStackedTensorDict.lazy_stack([deformed(count, dtype=torch.float32).replace(mask=torch.ones(count, dtype=torch.bool)) for count in (3, 4)])
    for cast in (scenes.clone().lock_().to(F64), scenes.memmap(tmp_path).to(F64), scenes.double(), scenes.to("cpu", F64), scenes.to(torch.zeros(1, dtype=F64))):
        assert (cast.mask.dtype, cast.means.dtype, type(cast)) == (torch.bool, F64, Splats) and cast.harmonics is None and cast.batch_size == (2,)
    assert scenes.half().means.dtype == torch.float16 and scenes.double().float().means.dtype == torch.float32
    assert ragged.to("cpu")[0].mask.dtype == torch.bool and scenes.to(scenes.means.device).mask.dtype == torch.bool


@pytest.mark.parametrize("backend", ["warp", "per pixel", "reference"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_opacities_that_are_no_numbers_draw_nothing_without_the_check(backend: str, antialiased: bool) -> None:
    splats, camera = deformed(30, dtype=torch.float32), ring(1)
    clean = splats.clone()
    clean.opacities[:3] = 0
    splats.opacities[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    leaves = [getattr(splats, name).requires_grad_() for name in ("means", "rotations", "scales", "deformations")]
    by: Any = per_pixel_backend.draw if backend == "per pixel" else backend
    seen = render(splats, camera, backend=by, check=False, antialiased=antialiased)
    assert torch.equal(seen.image, render(clean, camera, backend=by, antialiased=antialiased).image)
    assert all(value.isfinite().all() for value in torch.autograd.grad(seen.image.sum() + seen.depth.sum(), leaves))
