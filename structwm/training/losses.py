"""What a model is trained to make small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from .open_loop import predict
from .windows import Batch


class Loss(Protocol):
    """A scalar of a model and windows; `model(state, actions)` rolls out. `fitted` sees the training windows once, before training."""

    def __call__(self, model: Any, batch: Batch) -> Tensor: ...
    def fitted(self, model: Any, windows: Batch) -> Self: ...


@dataclass(frozen=True)
class RolloutLoss:
    """How far a rollout from each window's start is from what was observed, averaged over windows, steps and coordinates.

    Each coordinate's error is divided by its scale; what was not observed counts nothing. Members are trained on their own errors.
    """

    scale: Mapping[str, float] | None = None  # by coordinate name, in its unit; None: its mean change over a window, so that holding still errs by 1
    kind: Literal["squared", "huber", "absolute"] = "huber"  # huber forgives outliers
    threshold: float = 1.0  # where huber turns from squared to absolute, in scales; smaller forgives more

    def fitted(self, model: Any, windows: Batch) -> RolloutLoss:
        if self.scale is not None:
            return self
        scene, start = model.scene, windows.states[:, :1].expand(*windows.states.batch_size)
        changes = scene.coordinate_difference(windows.states, start)[:, 1:].masked_fill(~windows.valid[:, 1:, None], float("nan"))
        sizes = changes.abs().nanmean((0, 1)).nan_to_num(0.0)
        names = scene.coordinate_names(windows.states)
        return replace(self, scale={name: float(size) if size > 0 else 1.0 for name, size in zip(names, sizes, strict=True)})

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        trajectory, scene = predict(model, batch), model.scene
        observed = batch.states if model.spec.members == 1 else batch.states.unsqueeze(1)
        valid = batch.valid if model.spec.members == 1 else batch.valid.unsqueeze(1)
        errors = scene.coordinate_difference(trajectory.states, observed)[..., 1:, :]
        known = (errors.detach().isfinite() | trajectory_broke(trajectory, scene)[..., 1:, :]) & valid[..., 1:, None]
        errors = torch.where(known, errors, 0.0) / self._scales(scene, batch, errors)
        match self.kind:
            case "squared":
                values = errors.square()
            case "absolute":
                values = errors.abs()
            case "huber":
                values = torch.nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=self.threshold)
        return values.sum() / known.sum().clamp_min(1)

    def _scales(self, scene: Any, batch: Batch, like: Tensor) -> Tensor:
        given = self.scale or {}
        return torch.tensor([given.get(name, 1.0) for name in scene.coordinate_names(batch.states)], dtype=like.dtype, device=like.device)


def trajectory_broke(trajectory: Any, scene: Any) -> Tensor:
    """Where a prediction is not finite, bool: it must not pass for something that was not observed."""
    broke: Tensor = ~scene.coordinates(trajectory.states).detach().isfinite()
    return broke


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """One-step negative log likelihood per number, for models with a predictive density: `model.log_prob(state, action, next_state)` gives (N,)."""

    def fitted(self, model: Any, windows: Batch) -> NegativeLogLikelihood:
        if not callable(getattr(model, "log_prob", None)):
            raise ValueError(f"NegativeLogLikelihood needs a model with log_prob(state, action, next_state); {type(model).__name__} has none. Use RolloutLoss.")
        return self

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        steps = batch.segments(1)
        known = steps.observed()
        steps = steps[known[:, 0] & known[:, 1]]
        values: Tensor = model.log_prob(steps.start, steps.actions[:, 0], steps.states[:, 1])
        return -values.mean()
