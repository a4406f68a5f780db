"""Learned corrections of planar pushing, for `structwm.wrappers.Residual`.

A correction adds, per metre that the slider gives way along the contact normal, a sliding of the contact point along the tangent and a turn about the contact
point. Neither moves the contact point along the normal, so a corrected model penetrates no more than its base; without contact nothing changes; features are
those of `push_features`, so the correction moves and turns with the scene and does not depend on the step's length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from structwm.noise import Noise
from structwm.spec import Action, ModelSpec
from structwm.transition import TransitionModel
from structwm.wrappers import ModelWrapper

from .push_features import COLUMNS, Outline, PushGeometry, contact_step, mirrored, rotate
from .pushing import PushScene, PushState


@dataclass(frozen=True)
class Block:
    """Random Fourier features of some columns (Rahimi and Recht, NeurIPS 2007): they span functions that a Matern kernel of order 3/2 favours."""

    columns: tuple[str, ...]  # of `push_features.COLUMNS`
    scales: tuple[float, ...]  # length scale of each, in its unit
    count: int  # D, number of features
    odd: bool = False  # functions that change sign in a mirror; else any
    seed: int = 0


class FeatureMap(nn.Module):
    """Several blocks of random features; each has unit prior variance when its weights have."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        for k, block in enumerate(self.blocks):
            generator = torch.Generator().manual_seed(block.seed)
            n = len(block.columns)
            normal = torch.randn(block.count, n, generator=generator, dtype=torch.float64)
            # the Student-t spectrum of a Matern 3/2 kernel: 3 degrees of freedom
            chi = torch.randn(block.count, 3, generator=generator, dtype=torch.float64).square().sum(-1, keepdim=True) / 3
            self.register_buffer(f"frequency{k}", normal / chi.sqrt() / torch.tensor(block.scales, dtype=torch.float64))
            self.register_buffer(f"phase{k}", 2 * math.pi * torch.rand(block.count, generator=generator, dtype=torch.float64))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features of each block."""
        return tuple(block.count for block in self.blocks)

    def forward(self, columns: Tensor) -> Tensor:
        """(*B, D) for features (*B, len(COLUMNS))."""
        parts = []
        for k, block in enumerate(self.blocks):
            x = columns[..., [COLUMNS.index(name) for name in block.columns]]
            frequency, phase = (getattr(self, f"{name}{k}").to(x) for name in ("frequency", "phase"))
            part = (x @ frequency.T + phase).cos()
            if block.odd:
                part = (part - ((x * x.new_tensor(mirrored(block.columns))) @ frequency.T + phase).cos()) / math.sqrt(2)
            parts.append(part * math.sqrt(2 / block.count))
        return torch.cat(parts, -1)


class KernelRates(nn.Module):
    """Rates that are linear in random features: weights (D, 2)."""

    def __init__(self, blocks: Sequence[Block], weights: Tensor | None = None) -> None:
        super().__init__()
        self.map = FeatureMap(blocks)
        self.blocks = self.map.blocks
        found = torch.zeros(sum(self.map.sizes), 2) if weights is None else weights.clone()
        self.weights = nn.Parameter(found, requires_grad=False)  # found in closed form; twins roll out fast where nothing asks for gradients

    def forward(self, columns: Tensor) -> Tensor:
        """Slide and turn rates (*B, 2) for features (*B, len(COLUMNS))."""
        out: Tensor = self.map(columns) @ self.weights.to(columns)
        return out


class MlpRates(nn.Module):
    """Rates from a small network, |rate| <= bound, that change sign in a mirror; for `structwm.training.fit`.

    Args:
        columns: of `push_features.COLUMNS`.
        hidden: width of the two hidden layers.
        bound: of the rates.
    """

    def __init__(self, columns: Sequence[str], *, hidden: int = 32, bound: float = 2.0) -> None:
        super().__init__()
        self.columns, self.hidden, self.bound = tuple(columns), hidden, bound
        self.network = nn.Sequential(nn.Linear(len(columns), hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        nn.init.zeros_(self.network[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network[-1].bias)  # type: ignore[arg-type]

    def forward(self, columns: Tensor) -> Tensor:
        """Slide and turn rates (*B, 2) for features (*B, len(COLUMNS))."""
        x = columns[..., [COLUMNS.index(name) for name in self.columns]].to(next(self.parameters()))
        out = self.network(x) - self.network(x * x.new_tensor(mirrored(self.columns)))
        rates: Tensor = self.bound * torch.tanh(out / self.bound)
        return rates.to(columns)


class PushCorrection(nn.Module):
    """What `rates(features)` adds to a predicted pose: `travel` times (slide rate along t, turn rate / rho about the contact point)."""

    def __init__(self, geometry: PushGeometry, rates: nn.Module) -> None:
        super().__init__()
        self.geometry, self.outline, self.rates = geometry, Outline.of(geometry.shape), rates

    def forward(self, state: PushState, action: Action, predicted: PushState) -> dict[str, Tensor]:
        contact = contact_step(self.geometry, self.outline, state, predicted)
        rates = self.rates(contact.features) * contact.travel.unsqueeze(-1)
        slide, turn = rates[..., 0], rates[..., 1] / self.outline.gyration
        lever = predicted.pose[..., :2] - contact.point
        moved = rotate(lever, turn) - lever + slide.unsqueeze(-1) * contact.tangent
        return {"pose": torch.cat((moved, turn.unsqueeze(-1)), -1)}


class GeometricPush(TransitionModel[PushState]):
    """A slider that gives way along the contact normal and does nothing else: no friction, no limit surface."""

    def __init__(self, geometry: PushGeometry, spec: ModelSpec, scene: PushScene) -> None:
        super().__init__()
        self.geometry, self.spec, self.scene = geometry, spec, scene

    def step(self, state: PushState, action: Action, *, noise: Noise | None = None) -> PushState:
        assert isinstance(action, Tensor) and self.spec.dt is not None
        motion = action * self.spec.dt
        gap, _, normal = self.geometry.near(state.pose, state.pusher)
        n = rotate(normal, state.pose[..., 2])
        need = (-(n * motion).sum(-1) - gap).clamp_min(0.0)
        pose = torch.cat((state.pose[..., :2] - need.unsqueeze(-1) * n, state.pose[..., 2:]), -1)
        return PushState(pose=pose, pusher=state.pusher + motion, batch_size=state.batch_size)


class Fused(ModelWrapper[PushState]):
    """Steps a model by its own `roll`, which for a `PushTwin` is a fused kernel where no gradient is needed."""

    def config(self) -> dict[str, Any]:
        return {"model": self.model}

    def step(self, state: PushState, action: Action, *, noise: Noise | None = None) -> PushState:
        assert isinstance(action, Tensor)
        following: PushState = self.model.roll(state, action.unsqueeze(-2), noise=noise).states[..., 1]
        return following
