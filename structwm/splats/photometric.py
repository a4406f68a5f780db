"""Learning from pictures alone: predicted splats are drawn and compared with what cameras saw, down to the weights of the model that drives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.state import fields_of, state_of
from structwm.training.windows import Batch

from .splat_scene import SplatScene, render_states


class FilmedScene(SplatScene):
    """A scene of splats with what cameras saw of it; where only pictures are known, all else is NaN."""

    images: Tensor  # (*B, V, height, width, 3) in [0, 1]; NaN where there is no picture


def filmed(start: SplatScene, images: Tensor, actions: Tensor) -> Batch:
    """Windows of which nothing is known but their start and pictures, to train on with `PhotometricLoss`.

    Args:
        start: (N,) at the first instants.
        images: (N, H+1, V, height, width, 3) in [0, 1].
        actions: (N, H, A).

    Raises:
        ValueError: in one sentence, if shapes do not fit.
    """
    count, instants = len(images), images.shape[1] if images.ndim == 6 else 0
    if instants < 2 or images.shape[-1] != 3 or tuple(start.batch_size) != (count,) or actions.shape[:2] != (count, instants - 1):
        raise ValueError(
            f"filmed: expected N starts, images (N, H+1, V, height, width, 3) and actions (N, H, A), got {tuple(start.batch_size)}, {tuple(images.shape)} and "
            f"{tuple(actions.shape)}."
        )
    fields = {}
    for name, value in fields_of(start).items():
        whole = torch.full((count, instants, *value.shape[1:]), torch.nan).to(value)
        whole[:, 0] = value
        fields[name] = whole
    states = state_of(FilmedScene, fields | {"images": images}, [count, instants])
    return Batch(states, actions, torch.ones(count, instants, dtype=torch.bool, device=images.device))


@dataclass(frozen=True)
class PhotometricLoss:
    """Mean absolute difference of drawn from seen pictures over a rollout, for `structwm.training.fit` of a `SplatDynamics` on windows of `FilmedScene`.

    Pictures are compared in several sizes, each half of the one before: small ones tell a prediction that misses a thing by more than its width where to go.
    Gradients go through the rasterizer and the skin to the driving model's weights.

    Args:
        camera: of the V views.
        background: colour behind the splats.
        instants: steps of a window that are drawn, from 1 on; all if not given, fewer are faster.
        levels: sizes that are compared.
        blur: as of `render` [px^2].
        scale: of the difference; None: that of pictures which stay as at the start, so that holding still errs by 1.
    """

    camera: Camera
    background: Sequence[float] = (0.0, 0.0, 0.0)
    instants: tuple[int, ...] | None = None
    levels: int = 3
    blur: float = 0.3
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.levels < 1 or len(self.camera.batch_size) != 1 or (self.instants is not None and min(self.instants, default=0) < 1):
            raise ValueError(
                f"PhotometricLoss: expected cameras (V,), at least one level and instants from 1 on, got cameras {tuple(self.camera.batch_size)}, "
                f"{self.levels} and {self.instants}."
            )

    def fitted(self, model: Any, windows: Batch) -> PhotometricLoss:
        if "splats" not in model.scene.views:
            raise ValueError(f"PhotometricLoss needs a model with the view 'splats'; {type(model).__name__} has none. Use SplatDynamics.")
        seen = getattr(windows.states, "images", None)
        wanted = (len(self.camera), self.camera.height, self.camera.width, 3)
        if seen is None or tuple(seen.shape[2:]) != wanted:
            got = "none" if seen is None else str(tuple(seen.shape))
            raise ValueError(f"PhotometricLoss needs windows with images (N, H+1, {', '.join(map(str, wanted))}), see `filmed`; got {got}.")
        if self.scale is not None:
            return self
        still = self._difference(seen[:, :1].expand_as(seen)[:, 1:], seen[:, 1:], windows.valid[:, 1:])
        return replace(self, scale=max(float(still), 1e-6))

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        found = model(batch.start, batch.actions)
        steps = [step for step in self.instants or range(1, batch.horizon + 1) if step <= batch.horizon] or [batch.horizon]
        drawn = render_states(model.scene, found.states[:, steps], self.camera, background=self.background, blur=self.blur, check=False)
        return self._difference(drawn.image, batch.states.images[:, steps], batch.valid[:, steps]) / (self.scale or 1.0)

    def _difference(self, found: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        """Mean over pictures that are there and over sizes, of (N, K, V, height, width, 3)."""
        there = (valid[:, :, None] & seen.isfinite().flatten(3).all(-1)).flatten().nonzero()[:, 0]
        if not len(there):
            return 0.0 * found.sum()
        a, b = (value.flatten(0, 2)[there].movedim(-1, 1) for value in (found, seen))
        total = found.new_zeros(())
        for level in range(self.levels):
            if level:
                a, b = (torch.nn.functional.avg_pool2d(value, 2, ceil_mode=True) for value in (a, b))
            total = total + (a - b).abs().mean()
        return total / self.levels
