"""How a fit goes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Curriculum:
    """How many steps the model predicts from its own predictions, over the course of training: one step is teacher forcing, all are free running.

    Raises:
        ValueError: on numbers outside their ranges.
    """

    first: int = 1  # steps at the start
    last: int | None = None  # steps at the end; None: as many as a window has
    reach: float = 0.5  # fraction of training after which `last` is reached; smaller runs freely sooner

    def __post_init__(self) -> None:
        if self.first < 1 or (self.last is not None and self.last < self.first) or not 0.0 <= self.reach <= 1.0:
            raise ValueError(f"Curriculum needs 1 <= first <= last and reach in [0, 1], got {self.first}, {self.last} and {self.reach}.")

    def steps(self, progress: float, horizon: int) -> int:
        """Steps at a fraction of training in [0, 1], for windows of `horizon` steps."""
        last = min(self.last or horizon, horizon)
        first = min(self.first, last)
        share = 1.0 if self.reach == 0.0 else min(1.0, progress / self.reach)
        return first + round((last - first) * share)


@dataclass(frozen=True)
class FitSettings:
    """Optimisation, stopping, and where it runs.

    Raises:
        ValueError: on numbers outside their ranges.
    """

    steps: int = 2000  # optimiser steps at most
    batch: int = 64  # windows per step, over all processes; larger is smoother and slower
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: matrices move by orthogonal steps, the rest as by AdamW; often farther in as many steps
    learning_rate: float = 1e-3  # at its highest; linear warm-up, cosine decay to zero
    weight_decay: float = 1e-4  # larger keeps weights smaller
    warmup: float = 0.05  # fraction of the steps over which the learning rate rises
    clip: float = 1.0  # norm of the gradient at most
    curriculum: Curriculum = field(default_factory=Curriculum)
    evaluate_every: int = 100  # steps between held-out evaluations
    patience: int = 10  # evaluations without a better held-out error after which training stops
    checkpoint_every: int = 100  # steps between checkpoints; what a kill loses at most
    seed: int = 0  # of batches and of whatever the model draws while training
    workers: int = 0  # processes that read windows ahead
    accelerator: str = "auto"  # "cpu", "cuda", ...
    devices: int = 1  # processes, each on a device of its own; under torchrun its number is taken
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # of forward passes; mixed halves memory on CUDA

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "evaluate_every", "patience", "checkpoint_every", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"FitSettings needs {name} >= 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"FitSettings needs {name} > 0, got {getattr(self, name)}.")
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"FitSettings needs warmup in [0, 1), got {self.warmup}.")
        for name in ("weight_decay", "workers", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"FitSettings needs {name} >= 0, got {getattr(self, name)}.")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"FitSettings knows the optimizers adamw and muon, got {self.optimizer!r}.")
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"FitSettings knows the precisions 32-true and bf16-mixed, got {self.precision!r}.")

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 0): linear warm-up, then half a cosine to zero (Loshchilov and Hutter, ICLR 2017)."""
        rise = self.warmup * self.steps
        if step < rise:
            return self.learning_rate * min(1.0, (step + 1) / rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, self.steps - rise)))
