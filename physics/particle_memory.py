"""Causal maps of a series of inputs to a series of outputs, with a memory that is carried from step to step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CausalMap(nn.Module, ABC):
    """Outputs at an instant depend on the inputs up to it. A fresh memory is all zero."""

    inputs: int
    outputs: int

    @property
    @abstractmethod
    def memory(self) -> int:
        """M, how many numbers are carried on."""

    @abstractmethod
    def forward(self, inputs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, T, O) and memories (N, T, M) after each instant, from inputs (N, T, I) and the memory (N, M) before the first."""


class RecurrentMap(CausalMap):
    """A gated recurrent unit (Cho et al., EMNLP 2014) read by a small network that also sees the present inputs; zero before it is trained.

    Args:
        inputs: I.
        outputs: O.
        hidden: size of the memory; larger remembers more and is slower.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 128) -> None:
        super().__init__()
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden
        self.unit = nn.GRU(inputs, hidden, batch_first=True)
        self.readout = nn.Sequential(nn.Linear(hidden + inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
        last = self.readout[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @property
    def memory(self) -> int:
        return self.hidden

    def forward(self, inputs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.unit(inputs, memory.unsqueeze(0).contiguous())
        return self.readout(torch.cat((states, inputs), -1)), states


class LeakyMap(CausalMap):
    """Linear in the inputs, in random nonlinear features of them, and in what leaky integrators keep of both: an echo state network without feedback (Jaeger
    and Haas, Science 2004), whose weights a ridge regression finds at once.

    Args:
        inputs: I.
        outputs: O.
        steps: time constants of the integrators, in steps.
        features: how many random features.
        seed: of these.
    """

    def __init__(self, inputs: int, outputs: int, steps: Sequence[float] = (3.0, 10.0, 40.0), features: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps, self.features, self.seed = inputs, outputs, tuple(steps), features, seed
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("mix", torch.randn(inputs, features, generator=generator) / math.sqrt(inputs))
        self.register_buffer("phase", 2 * math.pi * torch.rand(features, generator=generator))
        self.register_buffer("keep", torch.tensor([math.exp(-1.0 / step) for step in self.steps]))
        self.weights = nn.Parameter(torch.zeros(self.width, outputs), requires_grad=False)  # found in closed form

    @property
    def memory(self) -> int:
        return len(self.steps) * (self.inputs + self.features)

    @property
    def width(self) -> int:
        """How many features the ridge regression has: those of the present, those kept, and a constant."""
        return (1 + len(self.steps)) * (self.inputs + self.features) + 1

    def design(self, inputs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, T, width) and memories (N, T, M)."""
        now = torch.cat((inputs, torch.sin(inputs @ self.mix + self.phase)), -1)  # type: ignore[operator]
        keep = self.keep[:, None]  # type: ignore[index]
        kept, at = [], memory.unflatten(-1, (len(self.steps), now.shape[-1]))
        for moment in now.unbind(1):
            at = at + (1 - keep) * (moment.unsqueeze(-2) - at)
            kept.append(at)
        memories = torch.stack(kept, 1).flatten(2)
        return torch.cat((now, memories, torch.ones_like(now[..., :1])), -1), memories

    def forward(self, inputs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        features, memories = self.design(inputs, memory)
        return features @ self.weights, memories
