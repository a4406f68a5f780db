"""Rendering of splats: against the plain torch reference, by hand, and as a user calls it."""

import math

import pytest
import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.render import RecordedBackend, render, warp_backend
from structwm.render.job import Drawn, SplatJob
from structwm.state import Splats

from .splats import random_splats, ring

TENSORS = ("means", "rotations", "scales", "opacities", "colors", "harmonics", "features")


def gradients(splats: Splats, camera: Camera, backend: str, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Everything `render` gives, and the gradients of a random weighing of it by everything that it takes."""
    splats = splats.clone().to(dtype)
    leaves = {name: getattr(splats, name).requires_grad_() for name in TENSORS if getattr(splats, name) is not None}
    pose = camera.world_from_camera.to(dtype).clone().requires_grad_()
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype, requires_grad=True)
    seen = render(splats, Camera(camera.intrinsics.to(dtype), pose, camera.width, camera.height), background=background, backend=backend)
    results = [value for value in (seen.image, seen.depth, seen.alpha, seen.features) if value is not None]
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype) for value in results]
    loss = sum(
        (w * v * (seen.alpha.detach() > 0.05).reshape(*v.shape[: seen.alpha.ndim], *[1] * (v.ndim - seen.alpha.ndim))).sum()
        for w, v in zip(weights, results, strict=True)
    )
    leaves |= {"pose": pose, "background": background}
    return [value.detach() for value in results], dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize(("degree", "features", "batch", "views"), [(0, 0, (), (2,)), (3, 5, (2,), (2, 2)), (1, 32, (), ()), (2, 9, (2, 1), (2, 1, 1))])
def test_kernels_agree_with_the_reference_in_float64(degree: int, features: int, batch: tuple[int, ...], views: tuple[int, ...]) -> None:
    splats, camera = random_splats(400, batch=batch, degree=degree, features=features), ring(*views)
    ours, ours_by = gradients(splats, camera, "warp", torch.float32)
    oracle, oracle_by = gradients(splats, camera, "reference", torch.float64)
    for mine, true in zip(ours, oracle, strict=True):
        assert mine.shape == true.shape
        off = (mine - true).abs() > 2e-5 * max(1.0, float(true.abs().max()))
        assert off.double().mean() <= 1e-3  # float32 and float64 disagree where a splat is at a threshold
    for name, true in oracle_by.items():
        largest = float(true.abs().max())
        assert (ours_by[name] - true).abs().max() <= 2e-3 * largest, name


def test_one_splat_by_hand() -> None:
    """A round splat 2 m in front of a camera with f = 100: variance (100 * 0.04 / 2)^2 + 0.3 px^2."""
    camera = Camera(torch.tensor([[100.0, 0, 16], [0, 100.0, 16], [0, 0, 1]]), torch.eye(4), 32, 32)
    splat = Splats(
        means=torch.tensor([[0.0, 0.0, 2.0]]), rotations=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.full((1, 3), 0.04), opacities=torch.tensor([0.6]),
        colors=torch.tensor([[1.0, 0.5, 0.25]]), batch_size=[],
    )  # fmt: skip
    seen = render(splat, camera, background=(0.0, 0.0, 1.0))
    offset = torch.arange(32) + 0.5 - 16
    alpha = 0.6 * torch.exp(-0.5 * (offset**2 + offset[:, None] ** 2) / 4.3)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    torch.testing.assert_close(seen.alpha, alpha, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.image, alpha[..., None] * splat.colors[0] + (1 - alpha[..., None]) * torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.depth, torch.where(alpha > 0, 2.0, 0.0), atol=1e-5, rtol=0)


def test_nearer_splats_hide_farther_ones() -> None:
    camera = Camera(torch.tensor([[50.0, 0, 8], [0, 50.0, 8], [0, 0, 1]]), torch.eye(4), 16, 16)
    for near in (0, 1):
        depth = torch.tensor([1.0, 2.0])[[near, 1 - near]]
        splats = Splats(
            means=torch.stack((torch.zeros(2), torch.zeros(2), depth), -1), rotations=torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
            scales=torch.full((2, 3), 0.3), opacities=torch.full((2,), 0.9), colors=torch.eye(3)[:2], batch_size=[],
        )  # fmt: skip
        middle = render(splats, camera).image[8, 8]
        assert middle[near] > 0.85 and 0.05 < middle[1 - near] < 0.1


def test_worlds_with_different_numbers_of_splats_are_drawn_as_alone() -> None:
    many, few, camera = random_splats(300, seed=1), random_splats(120, seed=2), ring(2, 3)
    pad = Splats(**{name: torch.cat((value, torch.full_like(getattr(many, name)[120:], math.nan))) for name, value in few.items()}, batch_size=[])
    both = torch.stack((many, pad))
    both.mask = torch.arange(300) < torch.tensor([[300], [120]])
    seen = render(both, camera)
    for world, alone in enumerate((many, few)):
        for view in range(3):
            torch.testing.assert_close(seen.image[world, view], render(alone, camera[world, view]).image, atol=1e-5, rtol=0)  # sums may be rounded otherwise


def test_padding_gets_no_gradient_and_changes_none() -> None:
    splats, camera = random_splats(100, degree=2), ring()
    splats.mask = torch.arange(100) < 60
    splats.means = splats.means.requires_grad_()
    (by,) = torch.autograd.grad(render(splats, camera).image.square().sum(), (splats.means,))
    assert by[60:].abs().max() == 0 and by[:60].abs().max() > 0


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    splats, camera = random_splats(6000, degree=1), ring(2, width=130, height=90)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, one_by = gradients(splats, camera, "warp", torch.float32)
        torch.set_num_threads(threads)
        many, many_by = gradients(splats, camera, "warp", torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))
    assert all(torch.equal(one_by[name], many_by[name]) for name in one_by)


def test_compiled_and_eager_agree_to_the_bit() -> None:
    splats, camera = random_splats(200, degree=1, features=3), ring(2)

    def loss(means: Tensor, opacities: Tensor) -> Tensor:
        seen = render(Splats(means=means, rotations=splats.rotations, scales=splats.scales, opacities=opacities, colors=splats.colors, batch_size=[]), camera)
        return seen.image.square().sum() + seen.depth.sum()

    results = []
    for call in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        leaves = [splats.means.clone().requires_grad_(), splats.opacities.clone().requires_grad_()]
        value = call(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_recorded_and_eager_agree_to_the_bit() -> None:
    recorded = RecordedBackend()
    for seed, count, views in ((1, 300, 2), (2, 300, 2), (3, 300, 2), (4, 40, 1)):
        splats, camera = random_splats(count, seed=seed, degree=1, features=3), ring(views)
        if seed == 2:
            splats.scales = 3 * splats.scales  # needs more room than the first
        ours, eager = render(splats, camera, backend=recorded), render(splats, camera)
        for name in ("image", "depth", "alpha", "features"):
            assert torch.equal(getattr(ours, name), getattr(eager, name)), (seed, name)
    before = ours.image.clone()
    render(random_splats(40, seed=5), camera, backend=recorded)
    assert torch.equal(ours.image, before)
    with pytest.raises(ValueError, match="has no gradients"):
        splats.means.requires_grad_()
        render(splats, camera, backend=recorded)


def test_antialiased_scenes_hide_as_much_at_any_size() -> None:
    """A splat smaller than a pixel covers an area that hardly depends on the pixels' size; without, the blur decides. And both backends agree."""
    splats, camera = random_splats(200), ring(width=240, height=176)
    splats.scales = 0.2 * splats.scales
    sums = {}
    for antialiased in (False, True):
        sums[antialiased] = [
            float(render(splats, view, antialiased=antialiased).alpha.sum()) * 240**2 / view.width**2 for view in (camera, camera.scaled(0.25))
        ]
    assert sums[True][1] == pytest.approx(sums[True][0], rel=0.25) and sums[False][1] > 3 * sums[False][0]
    splats = random_splats(200, dtype=torch.float64)
    ours = render(splats.to(torch.float32), ring(2), antialiased=True).image
    assert (ours - render(splats, ring(2, dtype=torch.float64), antialiased=True, backend="reference").image).abs().max() < 2e-4
    with pytest.raises(ValueError, match="no antialiasing"):
        render(splats.to(torch.float32), ring(2), antialiased=True, backend=RecordedBackend())


def test_determinism_is_asked_for_by_the_call_or_by_torch() -> None:
    """On CUDA it chooses gradients without atomics; on CPU they are always so."""
    splats, camera, seen = random_splats(20), ring(1), []

    def backend(job: SplatJob) -> Drawn:
        seen.append(job.deterministic)
        return warp_backend.draw(job)

    before = torch.are_deterministic_algorithms_enabled()
    try:
        for everywhere, here in ((False, None), (True, None), (True, False), (False, True)):
            torch.use_deterministic_algorithms(everywhere)
            render(splats, camera, backend=backend, deterministic=here)
    finally:
        torch.use_deterministic_algorithms(before)
    assert seen == [False, True, False, True]
