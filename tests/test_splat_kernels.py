"""The rasterizer's kernels one by one: gradients by finite differences, the lists of tiles by brute force, the compositing kernels against each other."""

import numpy as np
import pytest
import torch
import warp as wp
from torch import Tensor

from structwm.geometry import set_distances  # noqa: F401 - its operator
from structwm.geometry.camera import Camera
from structwm.kernels import splat_binning as binning
from structwm.kernels import splat_reference
from structwm.kernels.splat_raster import bin_splats, composite_splats, project_splats
from structwm.render import per_pixel_backend, render
from structwm.state import Splats

from .splats import random_splats, ring

SIZE = (60, 44)


def placed(splats: Splats, camera: Camera) -> tuple[Tensor, ...]:
    """What projection takes: one world, all views."""
    fields = (splats.means, splats.rotations, splats.scales, camera.camera_from_world[:, :3], camera.pinholes)
    return tuple(value.unsqueeze(0) for value in fields)


def test_gradients_of_projection_are_those_of_finite_differences() -> None:
    """With splats beyond the image's margin, where the Jacobian stands still, one behind the camera and one nearer than the nearest depth."""
    splats = random_splats(7, dtype=torch.float64)
    splats.means[0] = torch.tensor([0.0, 2.5, 0.5])
    splats.means[1] = torch.tensor([9.0, 0.0, 0.0])
    splats.rotations = 3 * splats.rotations
    means, rotations, scales, pose, pinholes = placed(splats, ring(2, dtype=torch.float64))
    leaves = [value.clone().requires_grad_() for value in (means, rotations, scales, pose)]

    def project(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centres, conics, depths = project_splats(*values, pinholes, *SIZE, 0.2, 100.0, 0.3)
        return centres / 100, conics, depths

    assert int((project(*leaves)[2] == 0).sum()) >= 1
    assert torch.autograd.gradcheck(project, leaves, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_agrees_with_plain_torch(dtype: torch.dtype) -> None:
    inputs = [value.to(dtype) for value in placed(random_splats(500), ring(3))]
    ours = project_splats(*inputs, *SIZE, 0.01, 3.2, 0.3)
    oracle = splat_reference.project(*(value.double() for value in inputs), *SIZE, 0.01, 3.2, 0.3)
    assert 100 < int((ours[2] == 0).sum()) < 1400
    for mine, true in zip(ours, oracle, strict=True):
        torch.testing.assert_close(mine.double(), true, atol=2e-3 if dtype == torch.float32 else 1e-10, rtol=1e-4 if dtype == torch.float32 else 1e-10)


def test_projection_by_hand() -> None:
    """A splat on the optical axis 2 m away, f = 100: a metre is 50 px, so deviations 0.02 and 0.04 m are 1 and 2 px before the blur of 0.3 px^2."""
    camera = Camera(torch.tensor([[100.0, 0, 30], [0, 100.0, 22], [0, 0, 1]])[None], torch.eye(4)[None], *SIZE)
    splat = Splats(
        means=torch.tensor([[0.0, 0.0, 2.0]]), rotations=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.tensor([[0.02, 0.04, 0.5]]),
        opacities=torch.ones(1), colors=torch.ones(1, 3), batch_size=[],
    )  # fmt: skip
    centres, conics, depths = project_splats(*placed(splat, camera), *SIZE, 0.01, 10.0, 0.3)
    torch.testing.assert_close(centres[0, 0], torch.tensor([[30.0, 22.0]]))
    torch.testing.assert_close(conics[0, 0], torch.tensor([[1 / 1.3, 0.0, 1 / 4.3]]))
    torch.testing.assert_close(depths[0, 0], torch.tensor([2.0]))


def lists_of(centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, width: int, height: int, **options: int) -> list[list[int]]:
    """The pairs of every tile."""
    flat = [wp.from_torch(value.reshape(-1, *value.shape[2:]).contiguous()) for value in (centres, conics, depths, opacities)]
    bins = bin_splats(*flat, views=len(depths), width=width, height=height, **options)
    ends, pairs = bins.ends.numpy().tolist(), bins.lists.numpy().tolist()
    return [pairs[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_tiles_list_every_splat_that_shows_in_them_nearest_first(seed: int) -> None:
    """Against alpha at every pixel's centre: nothing that shows is missing, and what is listed comes near to showing."""
    splats, camera = random_splats(300, seed=seed), ring(2)
    splats.scales = splats.scales * torch.tensor([4.0, 1.0, 0.3])  # long and thin
    splats.means[:5] *= 0.1
    centres, conics, depths = (value[0] for value in project_splats(*placed(splats, camera), *SIZE, 0.01, 100.0, 0.3))
    opacities = splats.opacities.expand(2, -1)
    listed = lists_of(centres, conics, depths, opacities, *SIZE)
    width, height = SIZE
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    columns, rows = -(-width // 16), -(-height // 16)
    spare = 0
    for tile, pairs in enumerate(listed):
        view, row, column = tile // (columns * rows), tile // columns % rows, tile % columns
        inside = (slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
        dx, dy = (p[inside][None] - centres[view, :, axis, None, None] for axis, p in ((0, x), (1, y)))
        a, b, c = (value[:, None, None] for value in conics[view].unbind(-1))
        shows = (opacities[view, :, None, None] * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)).amax((1, 2)) >= 1 / 255
        shown = set((shows & (depths[view] > 0)).nonzero()[:, 0].tolist())
        mine = [pair - 300 * view for pair in pairs]
        assert shown <= set(mine) and len(mine) == len(set(mine))
        assert mine == sorted(mine, key=lambda p: (float(depths[view, p]), p))
        spare += len(mine) - len(shown)
    assert spare < 0.15 * sum(map(len, listed))


def test_a_list_that_is_too_short_leaves_out_and_says_so() -> None:
    centres, conics, depths = (value[0] for value in project_splats(*placed(random_splats(100), ring(1)), *SIZE, 0.01, 100.0, 0.3))
    flat = [wp.from_torch(value.reshape(-1, *value.shape[2:]).contiguous()) for value in (centres, conics, depths, torch.full((1, 100), 0.5))]
    whole = bin_splats(*flat, views=1, width=SIZE[0], height=SIZE[1])
    short = bin_splats(*flat, views=1, width=SIZE[0], height=SIZE[1], capacity=20)
    long = bin_splats(*flat, views=1, width=SIZE[0], height=SIZE[1], capacity=1000)
    assert short.needed == long.needed == whole.needed == len(whole.lists) > 20
    assert int(short.ends.numpy()[-1]) == 20
    assert long.lists.numpy()[: whole.needed].tolist() == whole.lists.numpy().tolist() and long.ends.numpy().tolist() == whole.ends.numpy().tolist()


def test_both_compositing_kernels_agree() -> None:
    splats, camera = random_splats(800, features=6), ring(2)
    results = []
    for backend in ("warp", per_pixel_backend.draw):
        leaves = {name: value.clone().requires_grad_() for name, value in splats.items() if value is not None}
        seen = render(Splats(**leaves, batch_size=[]), camera, backend=backend)
        weights = torch.linspace(-1, 1, seen.features.numel()).reshape(seen.features.shape)
        loss = seen.image.square().sum() + (weights * seen.features).sum() + seen.depth.sum()
        results.append((seen, torch.autograd.grad(loss, list(leaves.values()))))
    (ours, ours_by), (theirs, theirs_by) = results
    for name in ("image", "alpha", "features", "depth"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=2e-5, rtol=2e-5)
    for mine, other in zip(ours_by, theirs_by, strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


def test_operators_keep_torchs_rules() -> None:
    inputs = placed(random_splats(20), ring(2, width=20, height=20))
    means = inputs[0].clone().requires_grad_()
    torch.library.opcheck(project_splats, (means, *inputs[1:], 20, 20, 0.01, 100.0, 0.3))
    centres, conics, depths = (value[0].detach() for value in project_splats(*inputs, 20, 20, 0.01, 100.0, 0.3))
    opacities = torch.full((2, 20), 0.5)
    channels = torch.rand(2, 20, 4).requires_grad_()
    torch.library.opcheck(composite_splats, (centres.requires_grad_(), conics.requires_grad_(), depths, opacities.requires_grad_(), channels, 20, 20, True))


def test_a_splat_in_front_of_which_the_camera_stands_is_cut_at_the_nearest_depth() -> None:
    """A camera inside of a splat: what lies nearer than `near` is not drawn, and huge footprints stay finite."""
    splats = random_splats(50)
    splats.means = 0.02 * splats.means
    splats.scales = torch.full_like(splats.scales, 0.5)
    means = splats.means.clone().requires_grad_()
    camera = Camera(torch.tensor([[50.0, 0, 30], [0, 50.0, 22], [0, 0, 1]]), torch.eye(4), *SIZE)
    seen = render(splats.replace(means=means), camera)
    (by,) = torch.autograd.grad(seen.image.sum() + seen.depth.sum(), (means,))
    hidden = splats.means[:, 2] <= 0.01
    assert hidden.any() and not hidden.all()
    assert seen.image.isfinite().all() and by.isfinite().all() and by[hidden].abs().max() == 0 and seen.depth.isfinite().all()


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch knows no such tag; install a newer one")
def test_operators_that_read_sizes_back_stay_out_of_cuda_graphs() -> None:
    for name in ("composite_splats", "composite_splats_backward", "neighbors", "nearest_both", "match"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.structwm, name).default.tags


@pytest.mark.parametrize("seed", range(6))
def test_as_many_touches_are_listed_as_were_counted(seed: int) -> None:
    """Round, long, diagonal and broken ellipses of all sizes: a difference would leave places in the lists that nobody wrote."""
    generator, count = np.random.default_rng(seed), 40_000
    width, height = ((640, 480), (60, 44), (1000, 17), (33, 2000))[seed % 4]
    columns, rows = -(-width // 16), -(-height // 16)
    wide, slim, angle = np.exp(generator.uniform(-3, (3, 6, 8)[seed % 3], count)), np.exp(generator.uniform(-3, 3, count)), generator.uniform(0, np.pi, count)
    if seed % 2:
        angle = np.round(angle * 4 / np.pi) * np.pi / 4 + 1e-4 * generator.normal(size=count)
    c, s = np.cos(angle), np.sin(angle)
    conics = np.stack((c * c / wide**2 + s * s / slim**2, c * s * (wide**-2 - slim**-2), s * s / wide**2 + c * c / slim**2), 1)
    if seed >= 4:
        conics = np.abs(generator.normal(size=(count, 3))) * 10 ** generator.uniform(-6, 2, (count, 3))
        conics[:, 1] *= generator.choice([-1, 1], count)
    given = (generator.uniform(-0.5, 1.5, (count, 2)) * (width, height), conics, generator.uniform(1, 2, count), generator.uniform(0, 1, count))
    arrays = [wp.array(value.astype(np.float32), dtype=float, device="cpu") for value in given]
    packed = wp.empty((count, binning.ROW), dtype=float, device="cpu")
    touched, order = (wp.empty(count, dtype=wp.int32, device="cpu") for _ in range(2))
    keys, pairs = (wp.empty(2 * count, dtype=wp.int32, device="cpu") for _ in range(2))
    starts = wp.empty(count + 1, dtype=wp.int32, device="cpu")
    wp.launch(binning.pack, dim=count, inputs=[0, *arrays, columns, rows, packed, touched, keys, pairs], device="cpu")
    wp.launch(binning.rank, dim=1, inputs=[count, keys, pairs, touched, order, starts], device="cpu")
    needed = int(starts.numpy()[-1])
    tiles, owners = (wp.full(needed, -7, dtype=wp.int32, device="cpu") for _ in range(2))
    wp.launch(binning.touch, dim=count, inputs=[0, order, starts, packed, count, columns, rows, needed, tiles, owners], device="cpu")
    assert needed > count // 4 and touched.numpy().min() == 0
    assert tiles.numpy().min() >= 0 and tiles.numpy().max() < columns * rows and owners.numpy().min() >= 0
    drawn = starts.numpy()[1:] > starts.numpy()[:-1]
    assert np.array_equal(np.bincount(owners.numpy(), minlength=count), touched.numpy()) and drawn.sum() == (touched.numpy() > 0).sum()
