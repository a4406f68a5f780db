"""What point models are trained to make small: distances of predicted from observed points over whole rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.training.windows import Batch

from .cloud import PointCloud, turned


@dataclass(frozen=True)
class PointLoss:
    """Mean distance of a rollout's points from those observed, over points that are not masked and steps that are valid, in units of `scale`.

    `paired` compares corresponding points. `chamfer` needs no correspondence: the mean nearest distance both ways plus `hausdorff` times a smooth maximum of
    them, so that a far end that is missed is not averaged away.

    Args:
        kind: what is compared.
        hausdorff: weight of the smooth maximum, for `chamfer`.
        still: weight, in the mean, of points that were not seen to move over the window, those that move most weighing 1; 1: all alike.
        turns: each window is turned about the vertical by a random angle, and mirrored or not: what gravity and a level table leave alike.
        noise: standard deviation of what is added to the points at the start, the same to their history [m]; makes rollouts recover from their own errors.
        likelihood: weight of the negative log likelihood of a step of each window, chosen at random: teaches a stochastic head how far predictions are off.
        scale: [m]; None: how far points move in a step.
    """

    kind: Literal["paired", "chamfer"] = "paired"
    hausdorff: float = 0.1
    still: float = 1.0
    turns: bool = True
    noise: float = 0.0
    likelihood: float = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("paired", "chamfer") or self.hausdorff < 0 or not 0 < self.still <= 1 or min(self.noise, self.likelihood) < 0:
            raise ValueError(
                f"PointLoss knows paired and chamfer, hausdorff, noise and likelihood >= 0 and still in (0, 1], got {self.kind!r}, {self.hausdorff}, "
                f"{self.noise}, {self.likelihood} and {self.still}."
            )

    def fitted(self, model: Any, windows: Batch) -> PointLoss:
        if self.likelihood and not callable(getattr(model, "log_prob", None)):
            raise ValueError(f"PointLoss with a likelihood needs a model with log_prob(state, action, next_state); {type(model).__name__} has none.")
        if self.scale is not None:
            return self
        counted = windows.states.mask[:, 1:] & windows.valid[:, 1:, None]
        step = windows.states.positions.diff(dim=1).norm(dim=-1)[counted]
        return replace(self, scale=max(float(step.square().mean().sqrt()), 1e-6))

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        states, actions = batch.states, batch.actions
        if self.turns:
            states, actions = _turned(states, actions)
        start = states[:, 0]
        if self.noise:
            shift = self.noise * torch.randn_like(start.positions) * start.mask.unsqueeze(-1)
            start = start.replace(positions=start.positions + shift, history=start.history + shift.unsqueeze(-2))
        found = model(start, actions).states.positions[:, 1:]
        seen, counted = states.positions[:, 1:], states.mask[:, 1:] & batch.valid[:, 1:, None]
        scale = self.scale or 1.0
        doubt = self.likelihood * self._surprise(model, states, actions, batch.valid) if self.likelihood else 0.0
        if self.kind == "chamfer":
            return self._unpaired(found / scale, seen / scale, counted) + doubt
        error = (found - seen).abs().sum(-1) / scale
        weight = counted.to(error)
        if self.still < 1:
            away = (states.positions[:, -1:] - states.positions[:, :1]).norm(dim=-1)
            weight = weight * (self.still + (1 - self.still) * (away / away.amax(-1, keepdim=True).clamp_min(1e-9)))
        return (error * weight).sum() / weight.sum().clamp_min(1e-9) + doubt

    def _surprise(self, model: Any, states: PointCloud, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean negative log likelihood of one step of each window, where both of its instants are valid."""
        count, steps = actions.shape[:2]
        rows, step = torch.arange(count, device=actions.device), torch.randint(steps, (count,), device=actions.device)
        there = (valid[rows, step] & valid[rows, step + 1]).to(actions)
        found = model.log_prob(states[rows, step], actions[rows, step], states[rows, step + 1])
        return -(found * there).sum() / there.sum().clamp_min(1.0)

    def _unpaired(self, found: Tensor, seen: Tensor, counted: Tensor) -> Tensor:
        there = counted.any(-1)
        if not bool(there.any()):
            return 0.0 * found.sum()
        parts = []
        for a, b in ((found, seen), (seen, found)):
            near = knn(a[there], b[there], 1, query_mask=counted[there], point_mask=counted[there])
            distances = torch.where(near.valid, near.distances, 0.0).squeeze(-1)
            mine = counted[there]
            mean = distances.sum(-1) / mine.sum(-1)
            worst = torch.logsumexp(torch.where(mine, distances, -math.inf), -1)
            parts.append((mean + self.hausdorff * worst).mean())
        return parts[0] + parts[1]


def _turned(states: PointCloud, actions: Tensor) -> tuple[PointCloud, Tensor]:
    """Windows (N, H+1) and motions (N, H, 3 M) of the robot, each window turned and mirrored at random."""
    count, steps = states.batch_size
    angle = 2 * math.pi * torch.rand(count, device=actions.device).to(actions)
    mirrored = torch.rand(count, device=actions.device) < 0.5
    moved = turned(states, angle.unsqueeze(1).expand(count, steps), mirrored=mirrored.unsqueeze(1).expand(count, steps))
    cos, sin, side = angle.cos(), angle.sin(), torch.where(mirrored, -1.0, 1.0).to(angle)
    x, y, z = actions.unflatten(-1, (-1, 3)).unbind(-1)
    cos, sin, side = (value[:, None, None] for value in (cos, sin, side))
    y = side * y
    return moved, torch.stack((cos * x - sin * y, sin * x + cos * y, z), -1).flatten(-2)
