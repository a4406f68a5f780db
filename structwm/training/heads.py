"""What a network says of D numbers: a mean, a normal with its own standard deviations, or a mixture of normals.

A head reads the raw outputs of a network. All are in the units in which the network is trained.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from structwm.noise import Noise


class Head(nn.Module, ABC):
    """A density over D numbers from `inputs` raw numbers."""

    inputs: int
    stochastic: bool = True

    @abstractmethod
    def mean(self, raw: Tensor) -> Tensor:
        """(*B, D) from (*B, inputs)."""

    @abstractmethod
    def std(self, raw: Tensor) -> Tensor:
        """Standard deviations (*B, D)."""

    @abstractmethod
    def log_prob(self, raw: Tensor, value: Tensor) -> Tensor:
        """Log density (*B) of values (*B, D), divided by D: per number."""

    @abstractmethod
    def sample(self, raw: Tensor, noise: Noise) -> Tensor:
        """A draw (*B, D)."""


class MeanHead(Head):
    """The mean alone; its density has unit standard deviations, so that its likelihood is the squared error."""

    stochastic = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self.inputs = size

    def mean(self, raw: Tensor) -> Tensor:
        return raw

    def std(self, raw: Tensor) -> Tensor:
        return torch.ones_like(raw)

    def log_prob(self, raw: Tensor, value: Tensor) -> Tensor:
        return -0.5 * (value - raw).square().mean(-1)

    def sample(self, raw: Tensor, noise: Noise) -> Tensor:
        return raw


class GaussianHead(Head):
    """A normal with a standard deviation of its own for every input (heteroscedastic).

    Log standard deviations are kept by soft, learned bounds, so that the network does not grow arbitrarily sure or unsure away from its data (Chua et al.,
    NeurIPS 2018, appendix A.1).
    """

    def __init__(self, size: int, *, low: float = -6.0, high: float = 1.0) -> None:
        super().__init__()
        self.size, self.inputs, self.low, self.high = size, 2 * size, low, high
        self.lowest, self.highest = nn.Parameter(torch.full((size,), low)), nn.Parameter(torch.full((size,), high))

    def mean(self, raw: Tensor) -> Tensor:
        return raw[..., : self.size]

    def std(self, raw: Tensor) -> Tensor:
        return self._log_std(raw[..., self.size :]).exp()

    def _log_std(self, raw: Tensor) -> Tensor:
        below = self.highest - softplus(self.highest - raw)
        return self.lowest + softplus(below - self.lowest)

    def log_prob(self, raw: Tensor, value: Tensor) -> Tensor:
        log_std = self._log_std(raw[..., self.size :])
        z = (value - raw[..., : self.size]) / log_std.exp()
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).mean(-1)

    def sample(self, raw: Tensor, noise: Noise) -> Tensor:
        return self.mean(raw) + self.std(raw) * noise.normal(raw[..., : self.size].shape, like=raw)


class MixtureHead(Head):
    """A mixture of M normals with diagonal covariance (Bishop, 1994): for outcomes that go one way or another, such as a push that turns left or right."""

    def __init__(self, size: int, *, components: int = 4) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(f"MixtureHead needs at least two components, got {components}; GaussianHead has one.")
        self.size, self.components = size, components
        self.parts = GaussianHead(size)
        self.inputs = components * (1 + 2 * size)

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights (*B, M) and the raw numbers (*B, M, 2 D) of the components."""
        weights, rest = raw[..., : self.components], raw[..., self.components :]
        return weights.log_softmax(-1), rest.unflatten(-1, (self.components, -1))

    def mean(self, raw: Tensor) -> Tensor:
        weights, parts = self._split(raw)
        return (weights.exp().unsqueeze(-1) * self.parts.mean(parts)).sum(-2)

    def std(self, raw: Tensor) -> Tensor:
        weights, parts = self._split(raw)
        share, means = weights.exp().unsqueeze(-1), self.parts.mean(parts)
        second = (share * (means.square() + self.parts.std(parts).square())).sum(-2)
        return (second - (share * means).sum(-2).square()).clamp_min(1e-12).sqrt()

    def log_prob(self, raw: Tensor, value: Tensor) -> Tensor:
        weights, parts = self._split(raw)
        each = self.parts.log_prob(parts, value.unsqueeze(-2)) * self.size
        return (weights + each).logsumexp(-1) / self.size

    def sample(self, raw: Tensor, noise: Noise) -> Tensor:
        weights, parts = self._split(raw)
        reach = weights.exp().cumsum(-1)
        uniform = noise.stream(noise.draw + 1_000_003).uniform(weights.shape[:-1], like=raw)
        chosen = (uniform.unsqueeze(-1) > reach[..., :-1]).sum(-1)
        part = parts.gather(-2, chosen[..., None, None].expand(*chosen.shape, 1, parts.shape[-1])).squeeze(-2)
        return self.parts.sample(part, noise)


HEADS: dict[str, type[Head]] = {"mean": MeanHead, "gaussian": GaussianHead, "mixture": MixtureHead}
