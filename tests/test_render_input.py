"""What `render` refuses, in one sentence, and the pictures it defines for what is odd but not wrong."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from structwm.data import write_splats
from structwm.geometry.camera import Camera
from structwm.geometry.mesh import Mesh
from structwm.geometry.neighbors import knn
from structwm.geometry.set_distances import chamfer, emd
from structwm.geometry.skinning import Skin, bake_deformations, node_rotations, skin_splats, skinning_weights
from structwm.render import RecordedBackend, per_pixel_backend, render, splats_from_points, stack_scenes, take_splats
from structwm.state import Points, Splats

from .splats import random_splats, ring


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("means", math.nan, "splats means: expected finite numbers, got .* for splat 3"),
        ("means", math.inf, "splats means: expected finite numbers"),
        ("rotations", 0.0, "splats rotations: expected finite quaternions that are not zero"),
        ("rotations", math.nan, "splats rotations: expected finite quaternions"),
        ("scales", -0.1, "splats scales: expected finite numbers, none negative"),
        ("opacities", 1.1, r"splats opacities: expected numbers in \[0, 1\], got 1.1.* for splat 3"),
        ("opacities", -0.1, "splats opacities"),
        ("opacities", math.nan, "splats opacities"),
        ("colors", math.nan, "splats colors"),
        ("harmonics", math.inf, "splats harmonics"),
        ("features", math.nan, "splats features"),
    ],
)
def test_bad_numbers_are_named_or_drawn_without_harm(field: str, value: float, message: str) -> None:
    """Refused with a check; without, neither picture nor gradients are NaN for what decides where a splat is drawn."""
    splats, camera = random_splats(10, degree=1, features=2), ring()
    getattr(splats, field)[3] = value
    with pytest.raises(ValueError, match=message):
        render(splats, camera)
    if field in ("means", "rotations", "scales"):
        leaves = {name: v.clone().requires_grad_() for name, v in splats.items() if v is not None and name != "harmonics"}
        seen = render(Splats(**leaves, batch_size=[]), camera, check=False)
        gradients = torch.autograd.grad(seen.image.sum() + seen.depth.sum(), [leaves[name] for name in ("means", "rotations", "scales", "opacities", "colors")])
        assert seen.image.isfinite().all() and seen.depth.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_world_of_a_bad_splat_is_named() -> None:
    splats = random_splats(10, batch=(2,))
    splats.scales[1, 7, 2] = -1
    with pytest.raises(ValueError, match=r"for splat 7 of world \(1,\)"):
        render(splats, ring())


@pytest.mark.parametrize("backend", ["warp", "reference"])
def test_scenes_of_nothing_are_the_background(backend: Any) -> None:
    for splats in (take_splats(random_splats(5, degree=1, features=2), torch.zeros(5, dtype=torch.bool)), random_splats(5, degree=1, features=2)):
        splats.mask = torch.zeros(len(splats.means), dtype=torch.bool)
        seen = render(splats, ring(2), background=(0.1, 0.2, 0.3), backend=backend)
        assert seen.image.shape == (2, 44, 60, 3) and seen.features.shape == (2, 44, 60, 2)
        torch.testing.assert_close(seen.image, torch.tensor([0.1, 0.2, 0.3]).expand(2, 44, 60, 3))
        assert seen.alpha.abs().max() == 0 and seen.depth.abs().max() == 0


def test_no_view_is_no_picture() -> None:
    camera = ring(2)
    assert render(random_splats(5), Camera(camera.intrinsics, camera.world_from_camera[:0], 60, 44)).image.shape == (0, 44, 60, 3)


def test_a_splat_of_no_size_is_a_blurred_point() -> None:
    splats = random_splats(1)
    splats.means, splats.scales = torch.zeros(1, 3), torch.zeros(1, 3)
    seen = render(splats, ring())
    assert 0 < seen.alpha.max() < 1 and int((seen.alpha > 0).sum()) < 40


def test_shapes_that_do_not_fit_are_refused() -> None:
    splats, camera = random_splats(10), ring(2)
    with pytest.raises(ValueError, match=r"splats colors: expected \(10, 3\), got \(10, 4\)"):
        render(splats.replace(colors=torch.rand(10, 4)), camera)
    with pytest.raises(ValueError, match="K = 3, 8 or 15"):
        render(splats.replace(harmonics=torch.rand(10, 4, 3)), camera)
    with pytest.raises(ValueError, match="from 1 to 32 channels; render more in parts, got .*33"):
        render(splats.replace(features=torch.rand(10, 33)), camera)
    with pytest.raises(ValueError, match=r"render background: expected \(3,\)"):
        render(splats, camera, background=torch.rand(4))
    with pytest.raises(ValueError, match=r"render background"):
        render(splats, camera, background=torch.rand(3, 3))
    with pytest.raises(ValueError, match="expected cameras whose batch axes begin with"):
        render(random_splats(10, batch=(3,)), camera)
    with pytest.raises(ValueError, match="expected a backend of warp, gsplat, pytorch3d, reference, got 'opengl'"):
        render(splats, camera, backend="opengl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected float32 for the backend warp"):
        render(splats.to(torch.float64), camera)
    with pytest.raises(ValueError, match="expected Splats, got Points; make splats with `splats_from_points`"):
        render(Points(positions=torch.rand(4, 3), batch_size=[]), camera)


def test_fields_of_another_type_are_refused() -> None:
    splats, camera = random_splats(10, degree=1, features=2), ring(2)
    for name in ("rotations", "colors", "opacities", "features", "harmonics"):
        with pytest.raises(ValueError, match=f"splats {name}: expected torch.float32"):
            render(splats.replace(**{name: getattr(splats, name).double()}), camera)
    for changed, message in (
        ({"colors": torch.zeros(10, 3, dtype=torch.uint8)}, "splats colors: expected torch.float32"),
        ({"mask": torch.ones(10)}, "splats mask: expected torch.bool"),
        ({"mask": torch.ones(9, dtype=torch.bool)}, r"splats mask: expected \(10,\), got \(9,\)"),
        ({"features": torch.zeros(7, 3)}, r"splats features: expected \(10, K\)"),
        ({"features": torch.zeros(10)}, r"splats features: expected \(10, K\)"),
        ({"harmonics": torch.zeros(1, 10, 3, 3)}, r"splats harmonics: expected \(10, K, 3\)"),
        ({"means": torch.zeros(3)}, "splats means: expected floating point numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            render(splats.replace(**changed), camera)
    splats.scales = None
    with pytest.raises(ValueError, match=r"splats scales: expected \(10, 3\), got None"):
        render(splats, camera)


@pytest.mark.parametrize("options", [{"near": math.nan}, {"near": 2.0, "far": 1.0}, {"near": -1.0}, {"blur": -0.3}, {"blur": math.nan}])
def test_limits_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= near < far and a blur that is not negative"):
        render(random_splats(3), ring(), **options)


@pytest.mark.parametrize("background", [1.0, "white", torch.tensor(0.5), (0.0, math.nan, 0.0)])
def test_backgrounds_that_are_none_are_refused(background: Any) -> None:
    with pytest.raises(ValueError, match="render background: expected"):
        render(random_splats(3), ring(), background=background)


def test_near_and_far_cut_by_depth() -> None:
    splats, camera = random_splats(60), ring()
    depth = camera.project(splats.means)[1]
    cut = float(depth.median())
    front, back = render(splats, camera, far=cut), render(splats, camera, near=cut)
    assert torch.equal(front.image, render(take_splats(splats, depth < cut), camera).image)
    assert torch.equal(back.image, render(take_splats(splats, depth > cut), camera).image)


@pytest.mark.parametrize("backend", ["warp", "per pixel", "reference"])
def test_padding_that_is_not_a_number_reaches_no_gradient(backend: Any) -> None:
    splats, camera = random_splats(20, degree=1), ring(2)
    splats.deformations = torch.eye(3).repeat(20, 1, 1)
    for value in (splats.means, splats.rotations, splats.scales, splats.harmonics, splats.colors, splats.deformations):
        value[15:] = math.nan
    splats.mask = torch.arange(20) < 15
    leaves = {name: value.requires_grad_() for name, value in splats.items() if name != "mask" and value is not None}
    pose = camera.world_from_camera.clone().requires_grad_()
    by = per_pixel_backend.draw if backend == "per pixel" else backend
    image = render(splats, Camera(camera.intrinsics, pose, camera.width, camera.height), backend=by).image
    gradients = torch.autograd.grad(image.square().sum(), [*leaves.values(), pose])
    assert image.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients) and gradients[-1].abs().max() > 0


def test_needles_keep_their_whole_length() -> None:
    """Splats a millimetre thick and up to 30 m long, in every direction; float32 would lose the area of such an ellipse if it were a difference of products."""
    splats = random_splats(40, dtype=torch.float64)
    splats.means = 0.3 * splats.means
    splats.scales = torch.tensor([[1.0, 0.001, 0.001]], dtype=torch.float64) * torch.logspace(-1, 1.5, 40, dtype=torch.float64)[:, None].clamp_min(0.1)
    splats.scales[:, 1:] = 0.001
    camera = ring(2, width=200, height=150, dtype=torch.float64)
    exact = render(splats, camera, backend="reference").alpha
    ours = render(splats.to(torch.float32), camera.to(torch.float32)).alpha
    assert (ours - exact).abs().max() < 0.02 and exact.max() > 0.5


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e18, 1e30])
def test_quaternions_may_have_any_length(size: float) -> None:
    splats, camera = random_splats(40), ring(2)
    once = render(splats, camera)
    splats.rotations = (torch.nn.functional.normalize(splats.rotations, dim=-1) * size).requires_grad_()
    seen = render(splats, camera)
    torch.testing.assert_close(seen.image, once.image, atol=1e-4, rtol=1e-4)
    (by,) = torch.autograd.grad(seen.image[..., 0].sum(), splats.rotations)
    assert by.isfinite().all() and (size == 1e30 or by.abs().max() > 0)


@pytest.mark.parametrize("scale", [1e4, 2e7, 8e7])
def test_splats_far_larger_than_the_image_cover_it(scale: float) -> None:
    splat = random_splats(1)
    splat.means, splat.scales, splat.opacities = torch.zeros(1, 3), torch.full((1, 3), scale), torch.full((1,), 0.6)
    for backend in ("warp", per_pixel_backend.draw):
        torch.testing.assert_close(render(splat, ring(1), backend=backend).alpha, torch.full((1, 44, 60), 0.6))  # type: ignore[arg-type]


def test_shapes_are_refused_without_the_check_of_numbers_too() -> None:
    """Kernels would read what is not there."""
    splats, camera = random_splats(50), ring(1)
    skin = skinning_weights(splats.means, splats.means[:5])
    nodes = splats.means[:5]
    for name, value in (("deformations", torch.zeros(60, 3, 3)), ("deformations", torch.zeros(1, 3, 3)), ("scales", splats.scales[:1])):
        wrong = splats.replace(**{name: value})
        for call in (
            lambda scene: render(scene, camera, check=False),
            lambda scene: torch.compile(render, backend="aot_eager")(scene, camera),
            bake_deformations,
            lambda scene: skin_splats(scene, skin, nodes, nodes),
            lambda scene: write_splats(scene, Path("never.ply")),
        ):
            with pytest.raises(ValueError, match=rf"(?=.*{name}).*expected .*\(50, 3.*got \({len(value)}, 3"):
                call(wrong)
    with pytest.raises(ValueError, match="splats deformations: expected torch.float32 .* got torch.float64"):
        bake_deformations(splats.replace(deformations=torch.zeros(50, 3, 3, dtype=torch.float64)))


def test_a_single_splat_in_a_single_view_has_gradients() -> None:
    splats = random_splats(1)
    splats.means = torch.zeros(1, 3).requires_grad_()
    (by,) = torch.autograd.grad(render(splats, ring()).image[:, :20].sum(), (splats.means,))
    assert by.isfinite().all() and by.abs().max() > 0


def test_more_than_the_indices_hold_is_refused_before_work() -> None:
    camera = ring()
    with pytest.raises(ValueError, match="fewer than 2.31 numbers in one call"):
        render(random_splats(3), Camera(camera.intrinsics, camera.world_from_camera.expand(3000, 4, 4), 256, 256))
    many = random_splats(30_000)
    many.means, many.scales, many.opacities = torch.zeros(30_000, 3), torch.ones(30_000, 3), torch.ones(30_000)
    with torch.no_grad(), pytest.raises(ValueError, match="fewer than 2.30 touches"):
        render(many, camera.scaled(70.0), check=False)


def test_backends_that_are_not_here_say_what_is_missing() -> None:
    splats, camera = random_splats(3), ring()
    with pytest.raises((ImportError, ValueError), match="gsplat"):
        render(splats, camera, backend="gsplat")
    for scene in (splats, Points(positions=torch.rand(4, 3), batch_size=[]), Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]]))):
        try:
            import pytorch3d  # noqa: F401
        except ImportError:
            with pytest.raises(ImportError, match="needs the package pytorch3d"):
                render(scene, camera, backend="pytorch3d")


def test_backgrounds_of_every_shape() -> None:
    splats, camera = random_splats(30, batch=(2,)), ring(2, 3)
    color = torch.rand(3)
    plain = render(splats, camera, background=color).image
    for shape in ((1, 1, 3), (2, 3, 3), (44, 60, 3), (1, 3, 44, 60, 3), (2, 3, 44, 60, 3)):
        torch.testing.assert_close(render(splats, camera, background=color.expand(shape)).image, plain)


def test_cameras_that_are_no_pinholes_are_refused() -> None:
    k, pose = ring().intrinsics, torch.eye(4)
    assert Camera(k, pose, 8, 8, distortion=[0, 0.0]).batch_size == ()
    with pytest.raises(ValueError, match="camera distortion: expected a pinhole camera .* undistort the images first"):
        Camera(k, pose, 8, 8, distortion=(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="camera intrinsics: expected rows"):
        Camera(k + torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]), pose, 8, 8)
    with pytest.raises(ValueError, match="expected rotations"):
        Camera(k, 2 * pose, 8, 8)
    with pytest.raises(ValueError, match=r"\(or mirrors\)"):
        Camera(k, torch.diag(torch.tensor([-1.0, 1, 1, 1])), 8, 8)
    with pytest.raises(ValueError, match="NaN or infinity"):
        Camera(k * math.nan, pose, 8, 8)
    with pytest.raises(ValueError, match="at least 1 x 1 px"):
        Camera(k, pose, 0, 8)
    with pytest.raises(ValueError, match=r"expected \(\*V, 4, 4\), got \(3, 4\)"):
        Camera(k, pose[:3], 8, 8)
    with pytest.raises(ValueError, match="away from the eye"):
        Camera.look_at((0.0, 0, 1), (0.0, 0, 0), width=8, height=8)
    with pytest.raises(IndexError, match="no batch axes"):
        ring()[0]


def test_cameras_project_what_their_rays_meet() -> None:
    camera = ring(2, 3)
    origins, directions = camera.rays()
    assert origins.shape == (2, 3, 3) and directions.shape == (2, 3, 44, 60, 3)
    points = origins[..., None, None, :] + 2.5 * directions
    pixels, depth = camera.project(points.flatten(2, 3))
    expected = torch.stack(torch.meshgrid(torch.arange(60) + 0.5, torch.arange(44) + 0.5, indexing="xy"), -1)
    torch.testing.assert_close(pixels.unflatten(2, (44, 60)), expected.expand(2, 3, 44, 60, 2), atol=1e-3, rtol=0)
    assert (depth > 0).all()
    torch.testing.assert_close(camera.camera_from_world @ camera.world_from_camera, torch.eye(4).expand(2, 3, 4, 4), atol=1e-5, rtol=0)
    half = camera.scaled(0.5)
    assert (half.width, half.height) == (30, 22)
    torch.testing.assert_close(half.project(points.flatten(2, 3))[0], pixels / 2, atol=1e-3, rtol=0)


def test_points_become_splats_as_large_as_their_neighbourhood() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    splats = splats_from_points(points, opacity=0.5)
    torch.testing.assert_close(splats.scales[0], torch.full((3,), 2.0))
    assert splats_from_points(points[:1]).scales[0, 0] == 0.01
    masked = splats_from_points(Points(positions=points, mask=torch.tensor([True, True, False, False]), batch_size=[]), torch.eye(4)[:, :3], scale=0.3)
    assert masked.means.tolist() == points[:2].tolist() and masked.colors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert masked.scales.flatten().tolist() == pytest.approx([0.3] * 6)
    with pytest.raises(ValueError, match=r"expected the points \(N, 3\) of one scene"):
        splats_from_points(points[None])


def test_stacked_scenes_are_worlds() -> None:
    scenes = [random_splats(count, seed=count, degree=1) for count in (20, 5)]
    scenes.append(take_splats(scenes[0], torch.arange(0)))
    camera = ring()
    seen = render(stack_scenes(scenes), camera)
    for world, scene in enumerate(scenes):
        assert torch.equal(seen.image[world], render(scene, camera).image)
    with pytest.raises(ValueError, match="the same kind of harmonics"):
        stack_scenes([scenes[0], random_splats(5)])
    with pytest.raises(ValueError, match="at least one scene"):
        stack_scenes([])


def slope_forward(brightness: Callable[[Tensor], Tensor], means: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(brightness(forward_ad.make_dual(means, torch.ones_like(means)))).tangent


DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "forward mode": slope_forward,
    "torch.func.jvp": lambda brightness, means: torch.func.jvp(brightness, (means,), (torch.ones_like(means),))[1],
    "torch.func.grad": lambda brightness, means: torch.func.grad(brightness)(means).sum(),
}


NEIGHBORS = skinning_weights(random_splats(30).means, random_splats(30).means, k=3)


def carried(means: Tensor) -> Tensor:
    """By nodes at the means, drawn by plain torch."""
    splats = random_splats(30)
    skin = Skin(NEIGHBORS.indices, NEIGHBORS.weights, 30)
    return render(skin_splats(splats, skin, splats.means, means, deformed=True), ring(1), backend="reference").image.sum()


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "knn": lambda points: knn(points, points.detach().flip(0), 2).distances.sum(),
    "chamfer": lambda points: chamfer(points, points.detach().flip(0) + 0.1).sum(),
    "skinning": carried,
    "nearest rotation": lambda nodes: node_rotations(random_splats(30).means, nodes, NEIGHBORS).sum(),
    "baking": lambda points: bake_deformations(random_splats(30).replace(deformations=torch.eye(3) + points.unsqueeze(-1) * points.unsqueeze(-2))).scales.sum(),
    "one thread a pixel": lambda means: render(random_splats(30).replace(means=means), ring(1), backend=per_pixel_backend.draw).image.sum(),
    "RecordedBackend": lambda means: render(random_splats(30).replace(means=means), ring(1), backend=RecordedBackend()).image.sum(),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", DERIVATIVES)
def test_no_kernel_loses_derivatives_without_a_word(way: str, kernel: str) -> None:
    with pytest.raises(ValueError, match=f"{kernel}.*: expected gradients by torch.autograd"):
        DERIVATIVES[way](KERNELS[kernel], random_splats(30, seed=1).means)


@pytest.mark.parametrize("way", DERIVATIVES)
def test_what_only_asks_for_indices_works_under_every_derivative(way: str) -> None:
    """Weights of a skin and the matching of `emd` are found from detached points and differentiated by torch."""
    points = random_splats(12, dtype=torch.float64).means
    others = random_splats(12, seed=1, dtype=torch.float64).means

    def loss(moved: Tensor) -> Tensor:
        return (skinning_weights(moved, others, k=3).weights * torch.arange(3)).sum() + emd(moved, others).sum()

    leaf = points.clone().requires_grad_()
    true = torch.autograd.grad(loss(leaf), leaf)[0].sum()
    torch.testing.assert_close(DERIVATIVES[way](loss, points), true)


@pytest.mark.parametrize("way", DERIVATIVES)
def test_derivatives_that_would_be_lost_are_refused(way: str) -> None:
    """The kernels have a backward pass only; plain torch has all."""
    splats, camera = random_splats(30), ring(1)

    def brightness(means: Tensor, backend: Any = "warp") -> Tensor:
        moved = splats.clone()
        moved.means = means
        return render(moved, camera, backend=backend).image.sum()

    with pytest.raises(ValueError, match="expected gradients by torch.autograd"):
        DERIVATIVES[way](brightness, splats.means)
    means = splats.means.clone().requires_grad_()
    true = torch.autograd.grad(brightness(means), means)[0].sum()
    torch.testing.assert_close(DERIVATIVES[way](lambda moved: brightness(moved, "reference"), splats.means), true, rtol=1e-3, atol=1e-3)
