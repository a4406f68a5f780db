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

    def __post_init__(self) -> None:
        wrong = [name for name, size in (self.scale or {}).items() if not 0.0 < size < float("inf")]
        if wrong or not self.threshold > 0.0:
            raise ValueError(f"RolloutLoss needs a threshold and finite scales above 0, got {self.threshold} and {dict(self.scale or {})}.")

    def fitted(self, model: Any, windows: Batch) -> RolloutLoss:
        if self.scale is not None:
            names = model.scene.coordinate_names(windows.states)
            unknown = sorted(set(self.scale) - set(names))
            if unknown:
                raise ValueError(f"RolloutLoss has a scale for {unknown[0]!r}; the coordinates of {type(model).__name__} are {', '.join(names)}.")
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
        broke = ~scene.coordinates(trajectory.states).detach().isfinite()  # must not pass for something that was not observed
        known = (errors.detach().isfinite() | broke[..., 1:, :]) & valid[..., 1:, None]
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


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """One-step negative log likelihood per number, for models with a predictive density: `model.log_prob(state, action, next_state)` gives (N,)."""

    def fitted(self, model: Any, windows: Batch) -> NegativeLogLikelihood:
        if not callable(getattr(model, "log_prob", None)):
            raise ValueError(f"NegativeLogLikelihood needs a model with log_prob(state, action, next_state); {type(model).__name__} has none. Use RolloutLoss.")
        if not len(_pairs(windows)):
            raise ValueError("NegativeLogLikelihood needs fully observed states one step apart, and these windows show none. Use RolloutLoss.")
        return self

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        steps = _pairs(batch)
        if not len(steps):
            return nothing(model)
        values: Tensor = model.log_prob(steps.start, steps.actions[:, 0], steps.states[:, 1])
        return -values.mean()


def _pairs(batch: Batch) -> Batch:
    """Windows of one step with both states fully observed."""
    steps = batch.segments(1)
    return steps[steps.observed().all(1)]


def nothing(model: Any) -> Tensor:
    """A loss of zero with a gradient of zero: of a batch that shows nothing."""
    return torch.stack([0.0 * parameter.sum() for parameter in model.parameters() if parameter.requires_grad]).sum()
