"""What a `SplatEncoder` is trained to make small, and its training: splats that are where they were, look as they did, and are drawn alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn

from structwm.geometry.camera import Camera
from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_motion import place_splats
from structwm.render import render
from structwm.state import Splats
from structwm.training.settings import FitSettings

from .encoder import FAINT, SplatEncoder


@dataclass(frozen=True)
class SplatReconstructionLoss:
    """Weights of what decoded splats are compared by.

    Raises:
        ValueError: on negative weights, or a share outside [0, 1).
    """

    places: float = 1.0  # chamfer distance of the means, in units of the distance between tokens
    looks: float = 1.0  # absolute differences of colour and opacity of each splat from the decoded one nearest to it
    images: float = 5.0  # absolute differences of images
    divergence: float = 1e-3  # from the standard normal distribution, of variational encoders; larger makes the latent space smoother and images blurred
    dropped: float = 0.1  # share of splats that the encoder does not get, at random, so that it does not depend on any one
    turns: bool = True  # scenes are turned about the vertical by random angles

    def __post_init__(self) -> None:
        weights = (self.places, self.looks, self.images, self.divergence)
        if min(weights) < 0 or not max(weights[:3]) > 0 or not 0 <= self.dropped < 1:
            raise ValueError(f"SplatReconstructionLoss needs weights >= 0, not all of them 0, and dropped in [0, 1), got {weights} and {self.dropped}.")

    def __call__(self, encoder: SplatEncoder, splats: Splats, camera: Camera, background: Tensor | Sequence[float] | None = None) -> Tensor:
        """The loss of scenes (S,) as seen by a camera without batch axes, with torch's own random numbers."""
        if self.turns:
            splats = turned(splats, 2 * math.pi * torch.rand(len(splats), device=splats.means.device).to(splats.means))
        told = splats
        if self.dropped:
            mask = torch.ones_like(splats.opacities, dtype=torch.bool) if splats.mask is None else splats.mask
            kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.dropped)
            visible = (kept & (splats.opacities > FAINT)).any(-1, keepdim=True)
            told = splats.replace(mask=torch.where(visible, kept, mask))
        latents = encoder.encode(told)
        found = encoder.decode(encoder.sample(latents))
        value = self._splats(encoder, found, splats)
        if self.images:
            seen = render(splats, camera, background=background).image
            value = value + self.images * (render(found, camera, background=background, check=False).image - seen).abs().mean()
        return value + self.divergence * encoder.divergence(latents).mean()

    def _splats(self, encoder: SplatEncoder, found: Splats, seen: Splats) -> Tensor:
        shown = seen.opacities > FAINT if seen.mask is None else (seen.opacities > FAINT) & seen.mask
        forth = knn(seen.means, found.means, 1, query_mask=shown, point_mask=found.mask)
        back = knn(found.means, seen.means, 1, query_mask=found.mask, point_mask=shown)
        parts = [(torch.where(near.valid, near.distances, 0.0).squeeze(-1).sum(-1) / near.valid.sum((-1, -2))).mean() for near in (forth, back)]
        index = forth.indices.clamp_min(0)
        color = (found.colors.gather(1, index.expand(-1, -1, 3)) - seen.colors).abs().mean(-1)
        opacity = (found.opacities.gather(1, index.squeeze(-1)) - seen.opacities).abs()
        looks = torch.where(shown, color + 0.3 * opacity, 0.0).sum() / shown.sum()
        return self.places * (parts[0] + parts[1]) / encoder.length + self.looks * looks


def turned(splats: Splats, angles: Tensor) -> Splats:
    """Scenes (S,) turned by angles (S,) [rad] about vertical axes through the middles of their splats."""
    mask = torch.ones_like(splats.opacities) if splats.mask is None else splats.mask.to(splats.opacities)
    means = splats.means if splats.mask is None else torch.where(splats.mask.unsqueeze(-1), splats.means, 0.0)
    middle = (means * mask.unsqueeze(-1)).sum(1) / mask.sum(1).clamp_min(1).unsqueeze(-1)
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.stack((0 * angles, 0 * angles, angles), -1)))
    return place_splats(splats, turn, middle - (turn @ middle.unsqueeze(-1)).squeeze(-1))


def fit_splat_encoder(
    encoder: SplatEncoder,
    scenes: Splats,
    cameras: Camera,
    *,
    background: Tensor | Sequence[float] | None = None,
    loss: SplatReconstructionLoss = SplatReconstructionLoss(),
    settings: FitSettings = FitSettings(batch=8),
    progress: bool = True,
) -> list[float]:
    """Train an encoder on scenes, each step on some of them seen by one camera, and give the loss of each step.

    Of the settings, `steps`, `batch`, `learning_rate`, `weight_decay`, `warmup`, `clip` and `seed` are read. The units of the encoder are read from the scenes
    first; afterwards it is in evaluation mode.

    Args:
        encoder: trained in place.
        scenes: (S,), padded and masked where they have different numbers of splats (`structwm.render.stack_scenes`).
        cameras: (V,) from which scenes are drawn.
        background: of the images, (3,).
        loss: what is made small.
        settings: how.
        progress: show a bar.

    Raises:
        ValueError: if scenes or cameras have other batch axes, and as `SplatEncoder.encode`.
        FloatingPointError: if the loss is not finite.
    """
    if len(scenes.batch_size) != 1 or not len(scenes) or len(cameras.batch_size) != 1:
        got = f"{tuple(scenes.batch_size)} and {tuple(cameras.batch_size)}"
        raise ValueError(f"fit_splat_encoder: expected scenes (S,) and cameras (V,) with at least one of each, got {got}.")
    encoder.fit_scales(scenes)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    history: list[float] = []
    encoder.train()
    with torch.random.fork_rng(devices=[scenes.means.device] if scenes.means.is_cuda else []):
        torch.manual_seed(settings.seed)
        for step in track(range(settings.steps), "training SplatEncoder", transient=True, disable=not progress):
            rows = torch.randint(len(scenes), (settings.batch,))
            value = loss(encoder, scenes[rows], cameras[int(torch.randint(len(cameras), ()))], background)
            if not bool(value.isfinite()):
                raise FloatingPointError(f"The loss of the splat encoder is {float(value)} at step {step}; try a smaller learning rate.")
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(encoder.parameters(), settings.clip)
            optimizer.step()
            history.append(float(value.detach()))
    encoder.eval()
    return history
