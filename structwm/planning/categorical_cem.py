"""The cross-entropy method over sequences of discrete actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.plan import Plan
from structwm.spec import ActionSpec
from structwm.transition import TransitionModel

from .cem import cheapest, elite_shares
from .sampling import SamplingPlanner


@dataclass(frozen=True)
class Categorical:
    """A sampler's parameters: independent choices at every step, and the sequence that the plan has come to."""

    probabilities: Tensor  # (B, H, n)
    chosen: Tensor  # int64 (B, H)

    def around(self, actions: Tensor) -> Categorical:
        """The same choices with another sequence among the candidates."""
        return replace(self, chosen=actions)

    def where(self, problems: Tensor, other: Categorical) -> Categorical:
        """These choices in the `problems`, bool (B,), and others elsewhere."""
        return Categorical(
            torch.where(problems[:, None, None], self.probabilities, other.probabilities), torch.where(problems[:, None], self.chosen, other.chosen)
        )


@dataclass(frozen=True, kw_only=True)
class CategoricalCEM(SamplingPlanner):
    """Fits the probabilities of the choices at every step to the elites, and draws again (Rubinstein and Kroese, The Cross-Entropy Method, 2004, chapter 2).

    For models with `applicable`, sequences in which an action is not are rejected while any is possible.
    """

    iterations: int = 5
    elites: int = 24  # candidates that are kept; fewer converge faster and get stuck sooner
    smoothing: float = 0.2  # share of the old probabilities that is kept
    floor: float = 0.02  # probability that is spread evenly over all choices; keeps exploring
    restart: float = 0.3  # the same at the start of the plan a step later

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.elites <= self.samples:
            raise ValueError(f"CategoricalCEM needs 1 <= elites <= samples, got {self.elites} elites of {self.samples} samples.")
        if not 0 <= self.smoothing < 1 or not 0 <= self.floor <= 1 or not 0 <= self.restart <= 1:
            raise ValueError(f"CategoricalCEM needs smoothing in [0, 1), floor and restart in [0, 1], got {self.smoothing}, {self.floor} and {self.restart}.")

    def init(self, spec: ActionSpec, problems: int, like: Tensor) -> Categorical:
        """Even odds; the first choice at every step stands for a plan."""
        even = torch.full((problems, self.horizon, spec.choices), 1 / spec.choices, device=like.device)
        return Categorical(even, torch.zeros(problems, self.horizon, dtype=torch.int64, device=like.device))

    def shift(self, sampler: Categorical) -> Categorical:
        """Choices move up by a step and are spread out; the last step is open."""
        moved = torch.cat((sampler.probabilities[:, 1:], torch.ones_like(sampler.probabilities[:, :1]) / sampler.probabilities.shape[-1]), 1)
        return Categorical(_spread(moved, self.restart), self.moved_up(sampler.chosen))

    def moved_up(self, actions: Tensor) -> Tensor:
        return torch.cat((actions[:, 1:], actions[:, -1:]), 1)

    def sample(self, sampler: Categorical, noise: Noise, iteration: int = 0) -> Tensor:
        problems, horizon, choices = sampler.probabilities.shape
        numbers = noise.uniform((problems, self.samples, horizon), like=sampler.probabilities)
        edges = sampler.probabilities.cumsum(-1)[:, None]
        candidates = (numbers[..., None] >= edges).sum(-1).clamp_max(choices - 1)
        candidates[:, 0] = sampler.chosen
        return candidates

    def weights(self, scores: Tensor) -> Tensor:
        return elite_shares(scores, self.elites)

    def update(self, sampler: Categorical, candidates: Tensor, scores: Tensor) -> Categorical:
        elite, costs = cheapest(candidates, scores, self.elites)
        known = costs.isfinite()[:, :, None, None].to(sampler.probabilities)
        counts = (torch.nn.functional.one_hot(elite, sampler.probabilities.shape[-1]) * known).sum(1) / known.sum(1).clamp_min(1.0)
        blended = self.smoothing * sampler.probabilities + (1 - self.smoothing) * counts
        return Categorical(_spread(blended, self.floor), blended.argmax(-1))

    def check_model(self, model: TransitionModel[Any]) -> None:
        if model.spec.action.kind != "discrete":
            raise ValueError(f"{type(self).__name__} plans discrete actions; {type(model).__name__} takes {model.spec.action.kind} ones.")

    def check_previous(self, previous: Plan, problems: int, spec: ActionSpec) -> Categorical:
        sampler = previous.sampler
        expected = (problems, self.horizon, spec.choices)
        if not isinstance(sampler, Categorical) or tuple(sampler.probabilities.shape) != expected:
            got = tuple(sampler.probabilities.shape) if isinstance(sampler, Categorical) else type(sampler).__name__
            raise ValueError(f"The previous plan does not fit this planner: expected probabilities of shape {expected}, got {got}; pass previous=None.")
        return sampler


def _spread(probabilities: Tensor, share: float) -> Tensor:
    """Probabilities of which a share is even, of sum 1."""
    mixed = (1 - share) * probabilities + share / probabilities.shape[-1]
    return mixed / mixed.sum(-1, keepdim=True)
