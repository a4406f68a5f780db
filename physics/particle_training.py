"""Blank corrections with the scales of what they will see, and the two ways of training them: ridge regression, and stochastic gradients."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .particle_correction import INPUTS, OUTPUTS, ParticleCorrection, seen_by
from .particle_frame import ParticleFrame, mirrored, turned_in
from .particle_memory import CausalMap, LeakyMap, RecurrentMap
from .particle_rollouts import Rollouts

USUAL = 0.999  # share of the training inputs within the distance in which the next two are
NEAR, FAR = 2.0, 4.0  # where trust begins to fall and where it is gone
AVERAGED = 0.02  # share of the newest weights in their moving average


@dataclass(frozen=True)
class Curve:
    """Held-out errors in the course of a training."""

    errors: Tensor  # (K, n) mean absolute error of each held-out run [m] at each evaluation
    steps: int  # of the optimiser
    seconds: float

    @property
    def best(self) -> int:
        """The evaluation with the least mean error."""
        return int(self.errors.mean(1).argmin())


def correction_for(rollouts: Rollouts, frame: ParticleFrame, free: Sequence[int], pushed: Sequence[int], *, mirror: bool = True) -> ParticleCorrection:
    """A correction with the scales of some rollouts, and of their mirror images if `mirror`, and no maps yet."""
    free = tuple(free)
    direction = frame.direction(rollouts.positions)
    used = rollouts.known.any(-1)
    both = seen_by(frame, pushed, rollouts.positions, rollouts.velocities, direction)[used]
    samples = (torch.cat((both, mirrored(both))) if mirror else both).flatten(1).double()
    mean, width = samples.mean(0), 3 * rollouts.positions.shape[-2]
    kinds = samples.std(0).split((width, width, samples.shape[1] - 2 * width))
    scale = torch.cat([torch.maximum(kind, 0.02 * kind.square().mean().sqrt().clamp_min(1e-9)) for kind in kinds])
    standard = (samples - mean) / scale
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    axes = vectors.flip(-1)[:, : min(INPUTS, int((values > 1e-9 * values[-1]).sum()))]
    seen = standard @ axes
    rest = (standard.square().sum(-1) - seen.square().sum(-1)).clamp_min(0).mean().sqrt()
    floor = 0.03 * values[-1].sqrt()
    spread = torch.cat((seen.square().mean(0).sqrt(), rest[None])).clamp_min(float(floor))
    errors = turned_in(rollouts.errors, direction)[..., free, :][rollouts.whole]
    errors = (torch.cat((errors, mirrored(errors))) if mirror else errors).flatten(1).double()
    size = errors.square().mean().sqrt().clamp_min(1e-9)
    basis = torch.linalg.eigh(errors.T @ errors)[1].flip(-1)[:, :OUTPUTS].T * size
    numbers = {"mean": mean, "scale": scale, "axes": axes, "spread": spread, "basis": basis}
    blank = ParticleCorrection(frame, free, pushed, [], **{name: value.float() for name, value in numbers.items()}, near=1.0, far=2.0, mirror=mirror)
    distance = blank.distance(samples.float()).sort().values
    usual = float(distance[int(USUAL * (len(distance) - 1))])
    blank.near, blank.far = NEAR * usual, FAR * usual
    return blank


def with_maps(correction: ParticleCorrection, maps: Sequence[CausalMap]) -> ParticleCorrection:
    """The same scales with other maps."""
    c = correction
    numbers = {name: getattr(c, name) for name in ("mean", "scale", "axes", "spread", "basis")}
    return ParticleCorrection(c.frame, c.free, c.pushed, maps, **numbers, near=c.near, far=c.far, recovery=c.recovery, mirror=c.mirror)


def changes(correction: ParticleCorrection, rollouts: Rollouts) -> Tensor:
    """Corrections (N, H, V, 3) [m] of rollouts."""
    count = len(rollouts)
    with torch.no_grad():
        fresh = rollouts.positions.new_zeros(count, correction.memory)
        return correction(rollouts.positions, rollouts.velocities, fresh, fresh.new_ones(count, 1))[0]


@dataclass(frozen=True)
class Lesson:
    """Rollouts as a correction sees them."""

    inputs: Tensor  # (N, H, F) in the frame
    errors: Tensor  # (N, H, P, 3) of the free particles, in the frame [m]
    known: Tensor  # (N, H, P)
    whole: Tensor  # (N, H) whether the errors of all are there
    runs: Tensor  # (N,) which run each is of

    @classmethod
    def of(cls, correction: ParticleCorrection, rollouts: Rollouts, runs: Tensor) -> Lesson:
        direction = correction.frame.direction(rollouts.positions)
        inputs = correction.inputs(rollouts.positions, rollouts.velocities, direction)
        return cls(inputs, turned_in(rollouts.errors, direction)[..., correction.free, :], rollouts.known[..., correction.free], rollouts.whole, runs)

    def some(self, index: Tensor) -> Lesson:
        """Of some of the runs."""
        return Lesson(self.inputs[index], self.errors[index], self.known[index], self.whole[index], self.runs[index])


class RidgeSums:
    """The normal equations of a `LeakyMap`, one set for each fold of the runs."""

    def __init__(self, correction: ParticleCorrection, folds: int) -> None:
        part = correction.maps[0]
        assert isinstance(part, LeakyMap)
        self.correction, self.map = correction, part
        self.moments = torch.zeros(folds, part.width, part.width, dtype=torch.float64)
        self.cross = torch.zeros(folds, part.width, part.outputs, dtype=torch.float64)
        self.inverse = torch.linalg.pinv(correction.basis)

    def add(self, lesson: Lesson, fold: Tensor) -> None:
        """Take in rollouts of runs, each of a fold (N,), and their mirror images where these count; a run counts the less the larger its errors are."""
        inputs, errors = lesson.inputs, lesson.errors
        each = errors.abs().mean((1, 2, 3))
        weight = (1.0 / (each + each.mean().clamp_min(1e-9)))[:, None] * lesson.whole
        for flipped in (False, True) if self.correction.mirror else (False,):
            seen = self.correction.mirrored_inputs(inputs) if flipped else inputs
            aim = ((mirrored(errors) if flipped else errors).flatten(2)) @ self.inverse
            features, _ = self.map.design(self.correction.project(seen), inputs.new_zeros(len(inputs), self.map.memory))
            scaled = features * weight.unsqueeze(-1)
            for k in fold.unique().tolist():
                mine = fold == k
                rows, loads = features[mine].flatten(0, 1), scaled[mine].flatten(0, 1)
                self.moments[k] += (loads.T @ rows).double()
                self.cross[k] += (loads.T @ aim[mine].flatten(0, 1)).double()

    def solve(self, strengths: Sequence[float], without: int | None = None) -> list[Tensor]:
        """Weights (width, O) for each strength of the ridge, relative to the mean square of the features; of all folds, or all but one."""
        moments, cross = (part.sum(0) - (0 if without is None else part[without]) for part in (self.moments, self.cross))
        values, axes = torch.linalg.eigh(moments)
        inside = axes.T @ cross
        floor = float(values.mean())
        return [(axes @ (inside / (values.clamp_min(0) + strength * floor)[:, None])).float() for strength in strengths]


def train_recurrent(
    correction: ParticleCorrection,
    lessons: Sequence[Lesson],
    held: Rollouts,
    *,
    steps: int,
    seconds: float,
    learning_rate: float,
    batch: int,
    evaluations: int,
    seed: int,
    report: Callable[[float, float], Any],
) -> Curve:
    """Train the one map of a correction, and leave it with the weights that did best on held-out rollouts.

    The loss is the mean absolute error over what was seen. AdamW with a cosine of the learning rate over the steps or seconds,
    whichever are used up first.
    """
    part = correction.maps[0]
    assert isinstance(part, RecurrentMap)
    generator = torch.Generator().manual_seed(seed)
    search = torch.optim.AdamW(part.parameters(), lr=learning_rate, weight_decay=1e-3)
    size = correction.basis.square().mean().sqrt() * math.sqrt(len(correction.basis))
    begin, taken, curve = time.perf_counter(), 0, [held.run_errors(changes(correction, held))]
    averaged = copy.deepcopy(part)  # moving averages of the weights, which generalise better than the last (Izmailov et al., UAI 2018)
    smooth, best = with_maps(correction, [averaged]), copy.deepcopy(part.state_dict())
    part.requires_grad_(True)
    while (progress := max((time.perf_counter() - begin) / seconds, taken / steps)) < 1.0:
        whole = lessons[int(torch.randint(len(lessons), (), generator=generator))]
        lesson = whole.some(torch.randperm(len(whole.runs), generator=generator)[:batch])
        inputs, errors, known = lesson.inputs, lesson.errors, lesson.known
        for group in search.param_groups:
            group["lr"] = learning_rate * min(1.0, 0.05 + 20 * progress) * 0.5 * (1 + math.cos(math.pi * progress))
        flip = torch.rand(len(inputs), generator=generator) < (0.5 if correction.mirror else 0.0)
        inputs = torch.where(flip[:, None, None], correction.mirrored_inputs(inputs), inputs)
        errors = torch.where(flip[:, None, None, None], mirrored(errors), errors)
        found, _ = part(correction.project(inputs), inputs.new_zeros(len(inputs), part.memory))
        off = torch.where(known.unsqueeze(-1), (errors - correction.expand(found)).abs(), 0.0)
        loss = off.sum() / (3 * known.sum()).clamp_min(1) / size
        search.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        search.step()
        taken += 1
        for mean, weight in zip(averaged.parameters(), part.parameters(), strict=True):
            mean.data.lerp_(weight.data, max(AVERAGED, 2 / (taken + 1)))
        if max((time.perf_counter() - begin) / seconds, taken / steps) >= len(curve) / evaluations:
            curve.append(held.run_errors(changes(smooth, held)))
            if float(curve[-1].mean()) <= min(float(each.mean()) for each in curve):
                best = copy.deepcopy(averaged.state_dict())
            report(1 / evaluations, float(curve[-1].mean()))
    part.load_state_dict(best)
    part.requires_grad_(False)
    return Curve(torch.stack(curve), taken, time.perf_counter() - begin)
