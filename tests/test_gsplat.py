"""What the library shares with gsplat, on CPU: its plain torch forms agree with ours, and the backend calls it as its signature says.

Its compositing runs on CUDA only; here the reference stands in for it.
"""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.geometry.harmonics import harmonic_basis
from structwm.kernels import splat_reference
from structwm.kernels.splat_raster import project_splats
from structwm.render import gsplat_backend, render, stack_scenes
from structwm.render.job import Drawn, SplatJob

from .splats import random_splats, ring

gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed: pip install structwm[gsplat]")
plain = pytest.importorskip("gsplat.cuda._torch_impl")


def project(
    means: Tensor, quats: Tensor, scales: Tensor, covars: Tensor | None, viewmats: Tensor, Ks: Tensor, width: int, height: int, *rest: Any
) -> tuple[Tensor, ...]:
    """Centres, depths, conics and the ratio of areas by gsplat's plain torch, each (V, N, ...)."""
    covariances = plain._quat_scale_to_covar_preci(quats, scales, compute_preci=False)[0] if covars is None else covars
    _, centres, depths, conics, ratios = plain._fully_fused_projection(means, covariances, viewmats, Ks, width, height, *rest)
    return centres, depths, conics, ratios


def test_projection_agrees_with_that_of_gsplat() -> None:
    """With splats beyond the image's margin and round ones; float64, in which neither loses digits."""
    splats, camera = random_splats(400, dtype=torch.float64), ring(3, dtype=torch.float64)
    splats.means[:40] *= 3
    size = (camera.width, camera.height)
    pose = camera.camera_from_world
    given = (splats.means[None], splats.rotations[None], splats.scales[None], pose[None, :, :3], camera.pinholes[None])
    centres, conics, depths = (value[0] for value in project_splats(*given, *size, 0.01, 100.0, 0.3))
    intrinsics = camera.intrinsics.expand(3, 3, 3)
    theirs = project(splats.means, splats.rotations, splats.scales, None, pose, intrinsics, *size, 0.3, 0.01, 100.0, False)
    seen = depths > 0
    assert 600 < int(seen.sum()) < 1200
    for mine, other in zip((centres, depths, conics), theirs, strict=False):
        torch.testing.assert_close(mine[seen], other[seen], rtol=1e-9, atol=1e-9)
    assert bool(((theirs[1] <= 0.01) | (theirs[1] >= 100.0))[~seen].all())


def test_harmonics_agree_with_those_of_gsplat() -> None:
    directions = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    coefficients = torch.randn(200, 16, 3, dtype=torch.float64)
    for degree in (1, 2, 3):
        mine = torch.einsum("nk,nkc->nc", harmonic_basis(directions, degree), coefficients[:, 1 : (degree + 1) ** 2])
        flat = coefficients[:, : (degree + 1) ** 2].clone()
        flat[:, 0] = 0  # the constant one is the colour
        torch.testing.assert_close(mine, plain._spherical_harmonics(degree, directions, flat))


@pytest.mark.parametrize(("antialiased", "deformed"), [(False, False), (True, False), (False, True)])
def test_the_backend_calls_gsplat_as_its_signature_says(antialiased: bool, deformed: bool) -> None:
    """Several worlds of different sizes, features, deformations, and padding that must not reach gsplat."""
    calls = []

    def rasterization(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        bound = inspect.signature(gsplat.rasterization).bind(*arguments, **options)
        bound.apply_defaults()
        given = bound.arguments
        calls.append(len(given["means"]))
        assert (given["render_mode"], given["packed"], given["sh_degree"], given["backgrounds"]) == ("RGB+D", False, None, None)
        names = ("means", "quats", "scales", "covars", "viewmats", "Ks", "width", "height", "eps2d", "near_plane", "far_plane")
        sharp = given["rasterize_mode"] == "antialiased"
        centres, depths, conics, ratios = project(*(given[name] for name in names), sharp)
        depths = torch.where((depths > given["near_plane"]) & (depths < given["far_plane"]), depths, 0.0)
        opacities = given["opacities"].expand_as(depths) * (ratios if sharp else 1.0)
        channels = torch.cat((given["colors"], depths.unsqueeze(-1)), -1)
        image, through = splat_reference.composite(centres, conics, depths, opacities, channels, given["width"], given["height"])
        return image, 1 - through.unsqueeze(-1), {}

    def draw(job: SplatJob) -> Drawn:
        return gsplat_backend.draw_with(rasterization, job)

    scenes = stack_scenes([random_splats(count, seed=count, features=5, dtype=torch.float64) for count in (120, 70)])
    if deformed:
        scenes.deformations = torch.eye(3) + 0.3 * torch.randn(2, 120, 3, 3, dtype=torch.float64)
    camera = ring(2, dtype=torch.float64)
    cameras = type(camera)(camera.intrinsics, camera.world_from_camera.expand(2, 2, 4, 4), camera.width, camera.height)
    theirs, ours = (render(scenes, cameras, backend=backend, antialiased=antialiased, blur=0.2) for backend in (draw, "reference"))
    assert calls == [120, 70]
    for name in ("image", "depth", "alpha", "features"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=1e-6, atol=1e-6)
