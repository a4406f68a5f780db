"""What latent dynamics of splats are trained on and made to make small: tokens of recorded scenes, followed from instant to instant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from structwm.state import Splats
from structwm.training.windows import Batch

from .latent_dynamics import SplatLatentDynamics, SplatLatentState


@torch.no_grad()
def follow_splats(model: SplatLatentDynamics, splats: Splats, robot: Tensor | None = None) -> SplatLatentState:
    """States (R, T) of recorded scenes: tokens are chosen at the first instant of each run and found again at every later one.

    Args:
        model: whose encoder makes tokens.
        splats: (R, T) runs of T instants.
        robot: (R, T, M, 3) [m]; none for models of other actions.

    Raises:
        ValueError: if the splats have no two batch axes, and as `SplatLatentDynamics.state`.
    """
    if len(splats.batch_size) != 2 or splats.batch_size[1] < 1:
        raise ValueError(f"follow_splats: expected splats of runs and instants (R, T), got batch axes {tuple(splats.batch_size)}.")
    found: list[Any] = []
    for instant in range(splats.batch_size[1]):
        found.append(model.encoder.encode(splats[:, instant], previous=found[-1] if found else None))
    return model.joined(cast(Any, torch.stack(found, 1)), robot)


def latent_windows(states: SplatLatentState, horizon: int, *, actions: Tensor | None = None, stride: int = 1) -> Batch:
    """Windows of runs, run by run.

    Args:
        states: (R, T) of `follow_splats`.
        horizon: H, steps of a window.
        actions: (R, T - 1, A); the motions of the robot's points if not given.
        stride: steps between the starts of two windows.

    Raises:
        ValueError: if runs have fewer than H steps.
    """
    instants = states.batch_size[1]
    if horizon < 1 or stride < 1 or horizon >= instants:
        raise ValueError(f"latent_windows: expected a horizon from 1 to {instants - 1} and a stride of at least 1, got {horizon} and {stride}.")
    if actions is None:
        actions = states.robot.diff(dim=1).flatten(2)
    starts = range(0, instants - horizon, stride)
    parts: list[Any] = [states[:, start : start + horizon + 1] for start in starts]
    windows = cast(Any, torch.stack(parts, 1)).reshape(-1, horizon + 1)
    given = torch.stack([actions[:, start : start + horizon] for start in starts], 1).flatten(0, 1)
    return Batch(windows, given, torch.ones(len(given), horizon + 1, dtype=torch.bool, device=given.device))


@dataclass(frozen=True)
class SplatLatentLoss:
    """How far a rollout is from what the frozen encoder made of the scenes that were observed, over tokens that are there and steps that are valid.

    Raises:
        ValueError: on negative weights, or if all are 0.
    """

    places: float = 1.0  # of tokens, in units of `scale`
    tokens: float = 0.3  # absolute differences of their numbers, in units of their changes over a window
    points: float = 0.3  # distances of decoded splats from those decoded of what was observed, in units of `scale`
    noise: float = 0.0  # standard deviation of what is added to the places at the start [m]; makes rollouts recover from their own errors
    scale: float | None = None  # [m]; None: how far tokens move in a step
    change: float | None = None  # of the numbers of tokens; None: how much they change over a window

    def __post_init__(self) -> None:
        weights = (self.places, self.tokens, self.points)
        if min(*weights, self.noise) < 0 or not max(weights) > 0:
            raise ValueError(f"SplatLatentLoss needs weights and noise >= 0 and a weight above 0, got {weights} and {self.noise}.")

    def fitted(self, model: Any, windows: Batch) -> SplatLatentLoss:
        states: SplatLatentState = windows.states
        both = states.present & windows.valid[..., None]
        step = states.centres.diff(dim=1).norm(dim=-1)[both[:, 1:] & both[:, :-1]]
        apart = (states.tokens - states.tokens[:, :1])[:, 1:][both[:, 1:] & both[:, :1]]
        scale, change = ((float(values.square().mean().sqrt()) if values.numel() else 1.0) for values in (step, apart))
        return replace(self, scale=self.scale or max(scale, 1e-6), change=self.change or max(change, 1e-6))

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        seen: SplatLatentState = batch.states
        start = seen[:, 0]
        if self.noise:
            start = start.replace(centres=start.centres + self.noise * torch.randn_like(start.centres))
        found = model(start, batch.actions).states[:, 1:]
        seen, counted = seen[:, 1:], (seen.present[:, 1:] & seen.present[:, :1] & batch.valid[:, 1:, None]).to(start.centres)
        scale = self.scale or 1.0
        error = self.places * (found.centres - seen.centres).abs().sum(-1) / scale
        error = error + self.tokens * (found.tokens - seen.tokens).abs().mean(-1) / (self.change or 1.0)
        if self.points:
            with torch.no_grad():
                observed = model.scene.splats(seen).means
            apart = (model.scene.splats(found).means - observed).abs().sum(-1)
            error = error + self.points * apart.unflatten(-1, (counted.shape[-1], -1)).mean(-1) / scale
        return (error * counted).sum() / counted.sum().clamp_min(1.0)
