"""A Gaussian splat scene from posed images: optimise, densify, prune, reset opacities (Kerbl et al., ACM TOG 2023, sections 5 and 6)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.harmonics import harmonic_degree
from structwm.geometry.rotations import normalize_quaternion, quaternion_rotate
from structwm.geometry.skinning import bake_deformations
from structwm.geometry.splat_checks import check_splats
from structwm.render.rendering import background_image, render
from structwm.render.scenes import splats_from_points, take_splats
from structwm.state import Points, Splats

from .image_metrics import psnr, ssim
from .viewed_points import points_in_view

RATES = {"means": 1.6e-4, "rotations": 1e-3, "scales": 5e-3, "opacities": 5e-2, "colors": 2.5e-3, "harmonics": 1.25e-4}
"""Steps of Adam; that of the means is in units of the scene's radius and falls to a hundredth (Kerbl et al., section 7)."""


@dataclass(frozen=True)
class SplatFitSettings:
    """How a scene is fitted. The defaults give a small scene on two cores in minutes."""

    iterations: int = 2000
    splats: int = 10_000  # at most
    degree: int = 0  # of the spherical harmonics for view-dependent colour, 0 to 3
    blur: float = 0.3  # see `render` [px^2]; less where images have hard edges
    antialiased: bool = False  # see `render`; for scenes that are looked at in other sizes than they were fitted at
    size: float = 1.0  # of the images that are compared, relative to the given ones; in larger ones the scene is not sharper than that
    structural: float = 0.2  # share of 1 - SSIM in the loss, the rest is the absolute difference
    refine_every: int = 100  # iterations between two rounds of densifying and pruning
    refine_from: float = 0.1  # share of the iterations before the first round
    refine_until: float = 0.6  # and before the last
    gradient: float = 2e-4  # mean gradient by a splat's place in the image, in units of half the image, from which it is cloned or split
    split_above: float = 0.01  # of the scene's radius; larger splats are split, smaller ones cloned
    prune_below: float = 0.005  # opacity
    prune_above: float = 0.5  # of the scene's radius
    resets: tuple[float, ...] = (0.35,)  # shares of the iterations after which opacities are brought down to 0.02; none after the last
    rate: float = 1.0  # factor on all steps of the optimizer
    evaluate_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.iterations, self.splats, self.refine_every, self.evaluate_every)
        shares = (self.structural, self.refine_from, self.refine_until, self.prune_below, *self.resets)
        limits = (self.gradient, self.split_above, self.prune_above, self.blur)
        if not all(0 <= share <= 1 for share in shares) or self.refine_from > self.refine_until or not all(limit >= 0 for limit in limits):
            raise ValueError(
                "splat fit settings: expected structural, refine_from <= refine_until, prune_below and resets in [0, 1], and gradient, split_above, blur and "
                f"prune_above not negative, got {self}."
            )
        if least < 1 or not self.rate > 0 or not 0 <= self.degree <= 3 or not 0 < self.size <= 1:
            raise ValueError(f"splat fit settings: expected counts of at least 1, a rate above 0, a degree of 0 to 3 and a size in (0, 1], got {self}.")


@dataclass(frozen=True)
class SplatFitProgress:
    """Where a fit stands."""

    iteration: int
    psnr: float  # mean over the images that are fitted [dB]
    held_out_psnr: float | None  # mean over the images that are held out [dB]
    splats: int
    seconds: float


@dataclass(frozen=True)
class SplatFit:
    """A fitted scene."""

    splats: Splats
    history: tuple[SplatFitProgress, ...]

    @property
    def last(self) -> SplatFitProgress:
        """Figures of the scene itself."""
        return self.history[-1]


@dataclass
class _Field:
    """Splats in coordinates that may take any value, with their optimizer."""

    values: dict[str, Tensor]
    rates: dict[str, float]
    optimizer: torch.optim.Adam = field(init=False)

    def __post_init__(self) -> None:
        self.values = {name: value.detach().clone().requires_grad_() for name, value in self.values.items()}
        groups = [{"params": [value], "lr": self.rates[name], "name": name} for name, value in self.values.items()]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15)

    def splats(self) -> Splats:
        value = self.values
        return Splats(
            means=value["means"],
            rotations=value["rotations"],
            scales=value["scales"].exp(),
            opacities=value["opacities"].sigmoid(),
            colors=value["colors"],
            harmonics=value.get("harmonics"),
            batch_size=[],
        )

    def select(self, kept: Tensor, added: dict[str, Tensor] | None = None) -> None:
        """Keep some splats, by index, and add new ones, whose optimizer starts afresh."""
        for group in self.optimizer.param_groups:
            name, old = group["name"], group["params"][0]
            more = added[name] if added is not None else old[:0]
            new = torch.cat((old.detach()[kept], more)).requires_grad_()
            state = self.optimizer.state.pop(old, {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key] = torch.cat((state[key][kept], torch.zeros_like(more)))
            group["params"] = [new]
            if state:
                self.optimizer.state[new] = state
            self.values[name] = new


@torch.enable_grad()
def fit_splats(
    images: Tensor,
    camera: Camera,
    *,
    masks: Tensor | None = None,
    initial: Splats | Points | Tensor | None = None,
    held_out: Sequence[int] = (),
    background: Sequence[float] = (0.0, 0.0, 0.0),
    settings: SplatFitSettings | None = None,
    progress: Callable[[SplatFitProgress], None] | None = None,
) -> SplatFit:
    """Fit splats to images taken from known places.

    Args:
        images: (V, height, width, 3) in [0, 1].
        camera: of V views.
        masks: bool (V, height, width); only what they show is fitted, before backgrounds of random colours, so that splats stay within them.
        initial: splats to start from, or points (N, 3) [m], at most `settings.splats`; by default points at random where the views meet, within the masks.
        held_out: views that are not fitted, for an honest PSNR.
        background: colour behind the scene.
        settings: how to fit.
        progress: called every `settings.evaluate_every` iterations.

    Raises:
        ValueError: in one sentence, if shapes or numbers do not fit.
    """
    settings = settings or SplatFitSettings()
    images, camera, masks = _checked(images, camera, masks, held_out, settings.size)
    fitted = [view for view in range(len(images)) if view not in {v % len(images) for v in held_out}]
    generator = torch.Generator().manual_seed(settings.seed)
    start = _start(initial, images, camera, masks, fitted, settings)
    middle = start.means.median(0).values
    radius = float((start.means - middle).norm(dim=-1).quantile(0.9)) or 1.0
    params = _Field(_coordinates(start, settings.degree), {name: rate * settings.rate * (radius if name == "means" else 1.0) for name, rate in RATES.items()})
    behind = background_image(background, images, images.shape[:3])[0, 0]
    steps, total, history, begun = images.new_zeros(len(start.means)), images.new_zeros(len(start.means)), [], time.perf_counter()
    resets = {round(share * settings.iterations) for share in settings.resets} - {0, settings.iterations}
    around = [slice(None) if masks is None else _surroundings(mask) for mask in (images if masks is None else masks)]
    views = [camera[view] for view in range(len(images))]
    order: list[int] = []
    for iteration in range(1, settings.iterations + 1):
        decay = 0.01 ** (iteration / settings.iterations)
        for group in params.optimizer.param_groups:
            if group["name"] == "means":
                group["lr"] = params.rates["means"] * decay
        if not order:
            order = [fitted[i] for i in torch.randperm(len(fitted), generator=generator).tolist()]
        view = order.pop()
        color = behind if masks is None else torch.rand(3, generator=generator).to(images)
        target = images[view] if masks is None else torch.where(masks[view].unsqueeze(-1), images[view], color)
        drawn = render(params.splats(), views[view], background=color, blur=settings.blur, antialiased=settings.antialiased, check=False).image
        loss = (1 - settings.structural) * (drawn - target).abs().mean() + settings.structural * (1 - ssim(drawn[around[view]], target[around[view]]))
        params.optimizer.zero_grad()
        loss.backward()
        moved, seen = _image_gradient(params.values["means"], views[view])
        total, steps = total + moved, steps + seen
        params.optimizer.step()
        share = iteration / settings.iterations
        if iteration % settings.refine_every == 0 and settings.refine_from <= share <= settings.refine_until:
            _refine(params, total / steps.clamp_min(1), radius, settings, generator)
            total, steps = (images.new_zeros(len(params.values["means"])) for _ in range(2))
        if iteration in resets:
            with torch.no_grad():
                params.values["opacities"].clamp_max_(math.log(0.02 / 0.98))
        if iteration % settings.evaluate_every == 0 or iteration == settings.iterations:
            history.append(_evaluate(params.splats(), images, camera, masks, behind, fitted, settings, iteration, begun))
            if progress is not None:
                progress(history[-1])
    final = params.splats()
    final.rotations = normalize_quaternion(final.rotations)
    return SplatFit(final.detach(), tuple(history))


def _checked(images: Tensor, camera: Camera, masks: Tensor | None, held_out: Sequence[int], size: float) -> tuple[Tensor, Camera, Tensor | None]:
    """Images, cameras and masks at the size that is compared."""
    if images.ndim != 4 or images.shape[-1] != 3 or tuple(camera.batch_size) != (len(images),) or images.shape[1:3] != (camera.height, camera.width):
        raise ValueError(
            f"fit_splats: expected images (V, height, width, 3) of V cameras, got {tuple(images.shape)} and cameras {tuple(camera.batch_size)} of "
            f"{camera.width} x {camera.height} px."
        )
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("fit_splats: expected floating point images in [0, 1]; divide images of bytes by 255.")
    if masks is not None and (masks.shape != images.shape[:3] or masks.dtype != torch.bool):
        raise ValueError(f"fit_splats: expected bool masks {tuple(images.shape[:3])}, got {masks.dtype} {tuple(masks.shape)}.")
    if any(not -len(images) <= view < len(images) for view in held_out) or len({view % len(images) for view in held_out}) == len(images):
        raise ValueError(f"fit_splats: expected held-out views among {len(images)}, and one left to fit, got {list(held_out)}.")
    if size == 1.0:
        return images.float(), camera.to(torch.float32), masks
    small = camera.to(torch.float32).scaled(size)
    resized = torch.nn.functional.interpolate(images.float().permute(0, 3, 1, 2), (small.height, small.width), mode="area").permute(0, 2, 3, 1)
    if masks is not None:
        masks = torch.nn.functional.interpolate(masks.float().unsqueeze(1), (small.height, small.width), mode="area").squeeze(1) > 0.5
    return resized.contiguous(), small, masks


def _start(
    initial: Splats | Points | Tensor | None, images: Tensor, camera: Camera, masks: Tensor | None, fitted: list[int], settings: SplatFitSettings
) -> Splats:
    if isinstance(initial, Splats):
        if initial.batch_size or not len(initial.means):
            raise ValueError(
                f"fit_splats: expected initial splats of one scene, got batch axes {tuple(initial.batch_size)} and {initial.means.shape[-2]} splats."
            )
        known = 0 if initial.harmonics is None else harmonic_degree(initial.harmonics.shape[-2])
        if initial.features is not None or known > settings.degree:
            raise ValueError(f"fit_splats: expected initial splats without features and of at most settings.degree = {settings.degree}, got {known}.")
        check_splats(initial)
        start = bake_deformations(initial if initial.mask is None else take_splats(initial, initial.mask))
        _check_budget(len(start.means), settings)
        return start.detach().to(torch.float32)
    if isinstance(initial, Points):
        initial = initial.positions if initial.mask is None else initial.positions[initial.mask]
    if initial is None:
        count = min(settings.splats, max(100, settings.splats // 2))
        initial = points_in_view(camera[fitted], count, masks=None if masks is None else masks[fitted], seed=settings.seed)
    if initial.ndim != 2 or initial.shape[-1] != 3 or not len(initial):
        raise ValueError(f"fit_splats: expected initial points (N, 3), got {tuple(initial.shape)}.")
    if not bool(initial.isfinite().all()):
        raise ValueError("fit_splats: expected finite initial points, got NaN or infinity.")
    _check_budget(len(initial), settings)
    pixels, depth = camera[fitted].project(initial.float())
    column, row = (pixels[..., axis].floor().long().clamp(0, limit - 1) for axis, limit in ((0, camera.width), (1, camera.height)))
    colors = torch.stack([image[r, c] for image, r, c in zip(images[fitted], row, column, strict=True)])
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels[..., 0] < camera.width) & (pixels[..., 1] < camera.height)
    mean = (colors * inside.unsqueeze(-1)).sum(0) / inside.sum(0).clamp_min(1).unsqueeze(-1)
    return splats_from_points(initial.float(), mean, opacity=0.1)


def _check_budget(count: int, settings: SplatFitSettings) -> None:
    if count > settings.splats:
        raise ValueError(f"fit_splats: expected at most settings.splats = {settings.splats} initial splats, got {count}; raise it, or start from fewer.")


def _surroundings(mask: Tensor) -> tuple[slice, slice]:
    """The box of a mask and a window's width around it, where structure is compared; all of an empty mask."""
    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(max(0, int(rows[0]) - 11), int(rows[-1]) + 12), slice(max(0, int(columns[0]) - 11), int(columns[-1]) + 12)


def _coordinates(splats: Splats, degree: int) -> dict[str, Tensor]:
    values = {
        "means": splats.means,
        "rotations": splats.rotations,
        "scales": splats.scales.clamp_min(1e-8).log(),
        "opacities": splats.opacities.clamp(1e-4, 1 - 1e-4).logit(),
        "colors": splats.colors,
    }
    if degree:
        harmonics = splats.means.new_zeros(len(splats.means), (degree + 1) ** 2 - 1, 3)
        if splats.harmonics is not None:
            shared = min(harmonics.shape[1], splats.harmonics.shape[1])
            harmonics[:, :shared] = splats.harmonics[:, :shared]
        values["harmonics"] = harmonics
    return values


def _image_gradient(means: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Size of the gradient by each splat's place in the image, in units of half the image, and 1 where there was one (N,).

    A step of the place in the image is one across the ray of depth / focal times its length, so the gradient by the mean is carried over without another
    rendering.
    """
    gradient = means.grad if means.grad is not None else torch.zeros_like(means)
    inside = gradient @ camera.world_from_camera[:3, :3]  # by the place in the camera's frame
    depth = camera.project(means.detach())[1].clamp_min(1e-6)
    focal = camera.intrinsics[[0, 1], [0, 1]]
    half = 0.5 * gradient.new_tensor([camera.width, camera.height])
    size = (inside[:, :2] * depth.unsqueeze(-1) / focal * half).norm(dim=-1)
    return size, (size > 0).to(size)


def _refine(params: _Field, gradient: Tensor, radius: float, settings: SplatFitSettings, generator: torch.Generator) -> None:
    """Clone small splats and split large ones where the image asks for more; prune what cannot be seen or is too large."""
    with torch.no_grad():
        values = params.values
        scales, opacities = values["scales"].exp(), values["opacities"].sigmoid()
        kept = (opacities >= settings.prune_below) & (scales.amax(-1) <= settings.prune_above * radius)
        if not bool(kept.any()):
            kept[opacities.argmax()] = True
        wanted = (gradient * kept > settings.gradient).nonzero()[:, 0]
        room = max(0, settings.splats - int(kept.sum()))
        wanted = wanted[gradient[wanted].argsort(descending=True, stable=True)[:room]]
        large = scales[wanted].amax(-1) > settings.split_above * radius
        added = {name: value.detach()[wanted].clone() for name, value in values.items()}
        split = wanted[large]
        first, second = (_within(values, split, torch.randn(len(split), 3, generator=generator)) for _ in range(2))
        values["means"][split] = first
        added["means"][large] = second
        values["scales"][split] -= math.log(1.6)
        added["scales"][large] -= math.log(1.6)
        params.select(kept.nonzero()[:, 0], added)


def _within(values: dict[str, Tensor], which: Tensor, normal: Tensor) -> Tensor:
    """Points of some splats' own Gaussians, from standard normal numbers (N, 3)."""
    scales = values["scales"][which].exp()
    return values["means"][which] + quaternion_rotate(values["rotations"][which], normal.to(scales) * scales)


def _evaluate(
    splats: Splats,
    images: Tensor,
    camera: Camera,
    masks: Tensor | None,
    background: Tensor,
    fitted: list[int],
    settings: SplatFitSettings,
    iteration: int,
    begun: float,
) -> SplatFitProgress:
    with torch.no_grad():
        values = []
        for view in range(len(images)):
            target = images[view] if masks is None else torch.where(masks[view].unsqueeze(-1), images[view], background)
            drawn = render(splats, camera[view], background=background, blur=settings.blur, antialiased=settings.antialiased, check=False).image
            values.append(float(psnr(drawn.clamp(0, 1), target)))
    others = [value for view, value in enumerate(values) if view not in fitted]
    mean = sum(values[view] for view in fitted) / len(fitted)
    return SplatFitProgress(iteration, mean, sum(others) / len(others) if others else None, len(splats.means), time.perf_counter() - begun)
