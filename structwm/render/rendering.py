"""`render`: Gaussian splats through pinhole cameras to colour, depth, alpha and features, differentiable, by any of several backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.harmonics import harmonic_basis, harmonic_degree
from structwm.geometry.mesh import Mesh
from structwm.geometry.splat_checks import check_shapes, check_splats
from structwm.state import Points, Splats

from . import reference_backend, warp_backend
from .job import Drawn, SplatJob

Backend = Literal["warp", "gsplat", "pytorch3d", "reference"]
FEATURES = 32  # channels beside colour and depth
NUMBERS = 42  # floats at most that kernels keep of a splat in a view, or of a pixel


@dataclass(frozen=True)
class Rendering:
    """What cameras see. The batch axes are those of the worlds, then those of the views of each."""

    image: Tensor  # (*B, *V, height, width, 3), with the background
    depth: Tensor  # (*B, *V, height, width) [m] along the optical axis, the mean over what is drawn, 0 where nothing is
    alpha: Tensor  # (*B, *V, height, width) in [0, 1], how much of the background is hidden
    features: Tensor | None = None  # (*B, *V, height, width, C), the sum over what is drawn, without background


def render(
    scene: Splats | Points | Mesh,
    camera: Camera,
    *,
    background: Tensor | Sequence[float] | None = None,
    backend: Backend | Callable[[SplatJob], Drawn] = "warp",
    near: float = 0.01,
    far: float = 1e10,
    blur: float = 0.3,
    antialiased: bool = False,
    deterministic: bool | None = None,
    check: bool = True,
) -> Rendering:
    """Draw a scene.

    Splats are projected by elliptical weighted averaging (Zwicker et al., 2002) and blended from front to back: alpha = min(0.99, opacity exp(-d^T conic d /
    2)), drawn from 1/255 on, until the transmittance would fall to 1e-4 (Kerbl et al., ACM TOG 2023). Gradients reach means, rotations, scales, deformations,
    opacities, colours, harmonics, features, the background and the cameras' poses. On CPU the result is the same bit for bit for any number of threads.

    Args:
        scene: splats of one world, or of several `(*B)`, padded and masked where their numbers differ. `Points` and `Mesh` need the backend pytorch3d.
        camera: pinhole cameras. Their batch axes begin with `*B` (1 where all worlds share them); further axes are several views of each world. A camera
            without batch axes sees every world.
        background: colour (3,) or (*B, *V, 3), or images (*B, *V, height, width, 3); black by default.
        backend: `warp` on CPU and CUDA; `gsplat` on CUDA; `pytorch3d` (splats as points); `reference`, plain torch in any floating
            type; or a function, such as `RecordedBackend`.
        near: least depth that is seen [m].
        far: greatest depth that is seen [m].
        blur: variance added to every ellipse [px^2], so that none falls between pixels.
        antialiased: make the opacity of a splat smaller as the blur makes its ellipse larger, by the square root of the ratio of areas (Yu et al.,
            Mip-Splatting, CVPR 2024), so that a scene looks alike in images of another size than it was fitted to.
        deterministic: on CUDA, gradients in a fixed order, without atomics; by default as `torch.use_deterministic_algorithms` says.
        check: refuse bad fields and numbers. Without the check, and within `torch.compile`, splats whose means, rotations, scales, deformations or
            opacities are not finite are not drawn and get no gradient; colours and features are drawn as they are.

    Raises:
        ValueError: in one sentence, if the numbers or shapes of the scene are not those of splats, or the batch axes do not fit.
        ImportError: if the backend's package is not installed.
    """
    draw = _backend(backend)
    if not isinstance(scene, Splats):
        if backend != "pytorch3d":
            raise ValueError(f"render: expected Splats, got {type(scene).__name__}; make splats with `splats_from_points`, or use backend='pytorch3d'.")
        from .pytorch3d_backend import draw_surface

        return draw_surface(scene, camera, background=background)
    if check and not torch.compiler.is_compiling():
        check_splats(scene)
    else:
        check_shapes(scene)
        scene = scene.replace(opacities=torch.where(scene.opacities.isfinite(), scene.opacities, 0.0))
    if scene.features is not None and scene.features.shape[-1] > FEATURES:
        raise ValueError(f"splats features: expected from 1 to {FEATURES} channels; render more in parts, got {scene.features.shape[-1]}.")
    if not (0 <= near < far and blur >= 0):
        raise ValueError(f"render: expected 0 <= near < far and a blur that is not negative, got near {near}, far {far} and blur {blur}.")
    worlds, views = _batches(scene, camera)
    height, width, count = camera.height, camera.width, scene.means.shape[-2]
    like, axes = scene.means, (math.prod(worlds), math.prod(views))
    largest = axes[0] * axes[1] * max(count * NUMBERS, height * width * NUMBERS)
    if largest >= 2**31:
        raise ValueError(f"render: expected fewer than 2^31 numbers in one call, got {largest}; draw fewer views or worlds at once.")

    def flat(value: Tensor, rank: int) -> Tensor:
        return value.reshape(axes[0], *value.shape[value.ndim - rank :])

    pose = camera.camera_from_world.to(like).expand(*worlds, *views, 4, 4).reshape(*axes, 4, 4)[..., :3, :]
    pinholes = camera.pinholes.detach().to(like).expand(*worlds, *views, 4).reshape(*axes, 4)
    means, opacities = flat(scene.means, 2), flat(scene.opacities, 1)
    if scene.mask is not None:
        opacities = torch.where(flat(scene.mask, 1), opacities, 0.0)
    colors = _colors(scene, means, pose, flat)
    channels = [colors.expand(*axes, count, 3)]
    if scene.features is not None:
        channels.append(flat(scene.features, 2).unsqueeze(1).expand(*axes, count, -1))
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if count * axes[0] * axes[1] == 0:
        drawn, depth, through = (like.new_zeros(*axes, height, width, *rest) for rest in ((sum(c.shape[-1] for c in channels),), (), ()))
        through = through + 1
    else:
        shapes = flat(scene.rotations, 2), flat(scene.scales, 2), None if scene.deformations is None else flat(scene.deformations, 3)
        drawn, depth, through = draw(
            SplatJob(means, *shapes, opacities, torch.cat(channels, -1), pose, pinholes, width, height, near, far, blur, antialiased, deterministic)
        )
    return on_background(Drawn(drawn, depth, through), (*worlds, *views, height, width), background)


def _batches(scene: Splats, camera: Camera) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch axes of the worlds and of the views of each."""
    worlds, cameras = tuple(scene.batch_size), tuple(camera.batch_size)
    if not cameras:
        return worlds, ()
    if len(cameras) < len(worlds) or any(c not in (1, w) for c, w in zip(cameras, worlds, strict=False)):
        raise ValueError(
            f"render: expected cameras whose batch axes begin with the scene's {worlds} (1 where all worlds share them), got {cameras}; "
            "several views of one scene need a scene without batch axes, or cameras of shape (1, V)."
        )
    return worlds, cameras[len(worlds) :]


def _colors(scene: Splats, means: Tensor, pose: Tensor, flat: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Colours (W, 1 or V, N, 3) as each view sees them."""
    colors = flat(scene.colors, 2).unsqueeze(1)
    if scene.harmonics is not None:
        harmonics = flat(scene.harmonics, 3)
        sound = means.isfinite().all(-1) & harmonics.isfinite().flatten(-2).all(-1)  # of others not even a gradient of zero times NaN
        means, harmonics = torch.where(sound.unsqueeze(-1), means, 0.0), torch.where(sound[..., None, None], harmonics, 0.0)
        eyes = -(pose[..., :3].mT @ pose[..., 3:]).squeeze(-1)
        directions = torch.nn.functional.normalize(means.unsqueeze(1) - eyes.unsqueeze(2), dim=-1)
        basis = harmonic_basis(directions, harmonic_degree(harmonics.shape[-2]))
        colors = colors + torch.einsum("wvnk,wnkc->wvnc", basis, harmonics)
    return colors.clamp_min(0)


def on_background(drawn: Drawn, shape: tuple[int, ...], background: Tensor | Sequence[float] | None) -> Rendering:
    """What was drawn as images of `shape` (*B, *V, height, width), blended with the background, with mean depths."""
    parts = drawn.channels.shape[-1] - 3
    image, features = drawn.channels.reshape(*shape, 3 + parts).split([3, parts], -1) if parts else (drawn.channels.reshape(*shape, 3), None)
    through = drawn.through.reshape(shape)
    alpha, hidden = 1 - through, through < 1
    if background is not None:
        image = image + through.unsqueeze(-1) * background_image(background, image, shape)
    depth = torch.where(hidden, drawn.depth.reshape(shape) / torch.where(hidden, alpha, 1.0), 0.0)
    return Rendering(image, depth, alpha, features)


def background_image(background: Tensor | Sequence[float], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A background as images that broadcast with those of `shape` (*B, *V, height, width)."""
    if not isinstance(background, Tensor | Sequence) or isinstance(background, str):
        raise ValueError(f"render background: expected three numbers or a tensor, got {background!r}.")
    value = torch.as_tensor(background, dtype=like.dtype, device=like.device)
    if value.ndim == 0:
        raise ValueError("render background: expected three numbers (3,), got one.")
    if not torch.compiler.is_compiling() and not bool(value.detach().isfinite().all()):
        raise ValueError("render background: expected finite numbers, got NaN or infinity.")
    if value.ndim >= 3 and value.shape[-3:-1] == shape[-2:]:
        wide = value
    else:
        wide = value[..., None, None, :]
    if value.shape[-1:] != (3,) or wide.ndim > len(shape) + 1 or any(a not in (1, b) for a, b in zip(wide.shape[-2::-1], shape[::-1], strict=False)):
        raise ValueError(f"render background: expected (3,), (*B, *V, 3) or (*B, *V, height, width, 3) for images {shape}, got {tuple(value.shape)}.")
    return wide


def _backend(name: Backend | Callable[[SplatJob], Drawn]) -> Callable[[SplatJob], Drawn]:
    if callable(name):
        return name
    if name == "warp":
        return warp_backend.draw
    if name == "reference":
        return reference_backend.draw
    if name == "gsplat":
        from . import gsplat_backend

        return gsplat_backend.draw
    if name == "pytorch3d":
        from . import pytorch3d_backend

        return pytorch3d_backend.draw
    raise ValueError(f"render: expected a backend of {', '.join(get_args(Backend))}, got {name!r}.")
