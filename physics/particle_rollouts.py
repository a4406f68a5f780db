"""Rollouts of a twin beside what was recorded, as the material of residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .recording import Recording
from .spring_runs import filled_over
from .spring_twin import SpringTwin
from .twin import Twin

ENOUGH = 0.3  # share of the free particles of springs that must be seen for the errors of the others to be taken from theirs

Record = Callable[[Any, Tensor], Recording[Any]]  # a recording of tracks (N, T, V, 3) that starts at their second instant, as `rod_recording` gives


@dataclass(frozen=True)
class Rollouts:
    """What a twin predicted of N runs, and by how much it erred; without the start, whose error is none."""

    positions: Tensor  # (N, H, V, 3) [m]
    velocities: Tensor  # (N, H+1, V, 3) [m/s], the start's first
    errors: Tensor  # (N, H, V, 3) recorded minus predicted [m], zero where `known` is False
    known: Tensor  # (N, H, V) bool, whether a particle was seen, and its prediction is finite
    whole: Tensor  # (N, H) bool, whether the errors of all are there: known, or of springs taken from those of neighbours

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Tensor) -> Rollouts:
        return Rollouts(self.positions[index], self.velocities[index], self.errors[index], self.known[index], self.whole[index])

    def run_errors(self, change: Tensor | None = None) -> Tensor:
        """Of each run (N,): mean absolute error of what was seen, over particles, coordinates and instants [m], with a correction (N, H, V, 3) or without."""
        left = self.errors if change is None else self.errors - change
        size = torch.where(self.known.unsqueeze(-1), left.abs(), 0.0).sum((1, 2, 3))
        return size / (3 * self.known.sum((1, 2))).clamp_min(1)


def rolled_out(twin: Twin[Any], tracks: Tensor, record: Record) -> Rollouts:
    """From the first two instants of tracks (N, T, V, 3) on, in float32."""
    recording = record(twin, tracks)
    single = recording.state.apply(lambda value: value.float() if value.is_floating_point() else value)
    actions = recording.actions.clamp(twin.spec.action.low.to(recording.actions), twin.spec.action.high.to(recording.actions)).float()
    with torch.no_grad():
        states = twin.roll(single, actions).states
    positions, velocities = states.positions[:, 1:], states.velocities
    errors = tracks[:, 2:].to(positions) - positions
    known = errors.isfinite().all(-1)
    errors, whole = torch.where(known.unsqueeze(-1), errors, 0.0), known.all(-1)
    if isinstance(twin, SpringTwin) and not bool(known.all()):
        free = twin.body.free
        errors = filled_over(twin.body, errors, known | ~free)
        whole = positions.isfinite().flatten(-2).all(-1) & (known[..., free].double().mean(-1) >= ENOUGH)
    places, speeds = (torch.where(part.isfinite(), part, 0.0) for part in (positions, velocities))
    return Rollouts(places, speeds, errors, known, whole)


class RolloutSource:
    """Rollouts of recorded runs from any instant on, under parameters near the twin's: no two draws are alike.

    A network so learns the twin's errors under other parameters too, of which one set alone would let it learn the noise.

    Args:
        twin: under its calibrated parameters.
        tracks: (N, T, V, 3) [m], NaN where a particle was not seen.
        record: makes a recording of some of them.
        parameters: which are varied.
        jitter: by how much, in prior standard deviations of the unconstrained parameters.
        shortest: instants that a rollout has at least.
    """

    def __init__(self, twin: Twin[Any], tracks: Tensor, record: Record, parameters: Sequence[str], jitter: float, shortest: int, seed: int) -> None:
        self.twin, self.tracks, self.record, self.jitter = twin, tracks, record, jitter
        self.space = twin.space(parameters) if parameters and jitter > 0 else None
        self.latest = max(0, tracks.shape[1] - shortest)
        self.generator = torch.Generator().manual_seed(seed)
        there = tracks.isfinite().all(-1)
        self.seen = there[..., twin.body.free].double().mean(-1) >= ENOUGH if isinstance(twin, SpringTwin) else there.all(-1)

    def draw(self, whole: bool) -> tuple[Tensor, Rollouts]:
        """Which runs (n,), and their rollouts from their starts or from another instant that is the same for all; runs not wholly seen there are left out."""
        start = 0 if whole else int(torch.randint(self.latest + 1, (), generator=self.generator))
        runs = (self.seen[:, start] & self.seen[:, start + 1]).nonzero().flatten()
        if not len(runs):
            runs, start = torch.arange(len(self.tracks)), 0
        return runs, rolled_out(self.varied(), self.tracks[runs, start:], self.record)

    def varied(self) -> Twin[Any]:
        """The twin under parameters drawn around its own."""
        if self.space is None:
            return self.twin
        z = self.space.pack({name: self.twin.values[name].double() for name in self.space.names})
        kick = self.jitter * self.space.spread * torch.randn(len(self.space), generator=self.generator, dtype=torch.float64)
        return self.twin.with_parameters(self.space.unpack(z + kick))
