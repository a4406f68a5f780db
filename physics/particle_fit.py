"""Learning what a twin of particles gets wrong, from recorded runs, and keeping it only where it helps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.transition import TransitionModel

from .calibration import calibration_progress
from .particle_correction import ParticleCorrection
from .particle_frame import ParticleFrame, widest
from .particle_gate import FEWEST, folds_of, judged
from .particle_memory import LeakyMap, RecurrentMap
from .particle_residual import ParticleResidual, layout_of
from .particle_rollouts import Record, Rollouts, RolloutSource, rolled_out
from .particle_training import Curve, Lesson, RidgeSums, changes, correction_for, train_recurrent, with_maps
from .rod_tracks import rod_recording
from .rod_twin import RodTwin
from .spring_forces import SpringForces
from .spring_forces_fit import fit_spring_forces
from .spring_runs import spring_tracks
from .spring_twin import SpringTwin
from .twin import Twin

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the ridge, of which the held-out runs choose


@dataclass(frozen=True)
class ResidualSettings:
    """How a residual is learned.

    Raises:
        ValueError: on numbers outside their ranges.
    """

    steps: int = 350  # of the optimiser, for each network
    seconds: float = math.inf  # of training the networks at most, all together
    members: int = 3  # networks that are averaged, each with other held-out runs
    hidden: int = 192  # size of a network's memory
    learning_rate: float = 7e-3  # at its highest
    batch: int = 16  # runs in a step of the optimiser
    evaluations: int = 10  # of the held-out error in the course of a training
    features: int = 128  # random features of the ridge
    rounds: int = 40  # of rollouts of each run that networks learn from; half of them start at its start
    ridge_rounds: int = 6  # likewise, of the ridge
    jitter: float = 0.2  # by how much parameters are varied, in prior standard deviations
    held_out: float = 0.125  # share of the runs that a network does not see, at least as many as the gate needs
    folds: int = 7  # of the ridge's cross-validation
    mirror: bool | None = None  # whether mirrored scenes have mirrored errors; if not given, unless the rod has a natural curvature
    margin: float = 1.0  # standard errors by which a correction must help to be kept; larger drops more
    seed: int = 0  # of weights, batches and folds

    def __post_init__(self) -> None:
        for name in ("steps", "members", "hidden", "batch", "evaluations", "features", "rounds", "ridge_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"ResidualSettings needs {name} >= 1, got {getattr(self, name)}.")
        if not (self.seconds > 0 and self.learning_rate > 0 and self.jitter >= 0 and 0 < self.held_out <= 0.5 and self.folds >= 2):
            raise ValueError("ResidualSettings needs seconds and learning_rate above 0, jitter >= 0, held_out in (0, 0.5] and folds >= 2.")


@dataclass(frozen=True)
class FittedParticleResidual:
    """A twin with its correction, or without where the gate dropped it."""

    model: TransitionModel[Any]  # a ParticleResidual, a Residual with forces, or the twin; rollouts of all take the twin's states
    kept: bool
    gain: float  # by how much the correction lowers the mean error of held-out runs, absolute by coordinate, of forces by point [m]; negative where it hurts
    standard_error: float  # of the gain, over runs [m]
    held_out: float  # that error of the twin alone on these runs [m]
    seconds: float  # of training
    why: str  # one sentence
    correction: ParticleCorrection | SpringForces  # what was learned, kept or not
    curves: tuple[Curve, ...] = ()  # of the networks

    @property
    def facts(self) -> Mapping[str, float | bool | str]:
        """What may be kept beside a saved model."""
        return {name: getattr(self, name) for name in ("kept", "gain", "standard_error", "held_out", "seconds", "why")}


def fit_particle_residual(
    twin: Twin[Any],
    tracks: Tensor,
    *,
    method: Literal["ridge", "recurrent", "forces"] | None = None,
    parameters: Sequence[str] = (),
    anchors: tuple[int, int] | None = None,
    driven: Sequence[int] | None = None,
    record: Record | None = None,
    settings: ResidualSettings = ResidualSettings(),
    progress: bool = True,
) -> FittedParticleResidual:
    """Learn what a calibrated twin gets wrong of tracked particles, and keep it only if it lowers the error of held-out runs by `margin` standard errors.

    The correction is a causal function of what the twin has predicted so far, driven particles included; the twin goes on from its own states. It learns from
    rollouts that start anywhere in a run, under parameters near the calibrated ones. `ridge` takes seconds. `recurrent` takes minutes and is the better one:
    each network holds some runs back, which choose when its training stops; the gain of a run is measured at the moment that other runs choose. Few
    parameters that were fitted to many runs err as much on these as on others, so the runs of the calibration may be used again.

    Of springs, `forces` learns forces instead, the same law for every particle and its neighbours (`fit_spring_forces`): the twin goes on from what they have
    changed, some runs are enough, and other motions and grips may follow. The others learn how the body as a whole errs, which takes more runs and says
    nothing of other grips; particles that were not seen are taken to err as their neighbours do.

    Args:
        twin: calibrated; its states have `positions` and `velocities` (*B, V, 3).
        tracks: runs (N, T, V, 3) [m]; NaN where a particle was not seen. Of springs, all particles, controllers last.
        method: what learns; `forces` of springs and `ridge` of others if not given.
        parameters: names of the twin's parameters that are varied; those of its calibration.
        anchors: two particles whose line gives the direction of the frame in which corrections are learned; if not given, the first and the last
            driven one, and of springs two that stay apart.
        driven: particles that move as commanded and are not corrected; those of the rod or body if not given.
        record: makes recordings of tracks; `spring_tracks` of springs and `rod_recording` of others if not given.
        settings: how.
        progress: show a bar.

    Raises:
        ValueError: on shapes that do not fit, fewer than two runs, an unknown method, or particles that are not there.
    """
    begin = time.perf_counter()
    springs = isinstance(twin, SpringTwin)
    method = method or ("forces" if springs else "ridge")
    usual: Record = spring_tracks if springs else rod_recording
    record = record or usual
    if method not in ("ridge", "recurrent", "forces"):
        raise ValueError(f"fit_particle_residual knows the methods ridge and recurrent, and forces for springs, got {method!r}.")
    if method == "forces" and not springs:
        raise ValueError(f"fit_particle_residual learns forces of a SpringTwin alone, got a {type(twin).__name__}; take ridge or recurrent.")
    if tracks.ndim != 4 or tracks.shape[-1] != 3 or tracks.shape[1] < 3 or len(tracks) < 2:
        raise ValueError(f"fit_particle_residual needs tracks (N, T, V, 3) of two runs and three instants at least, got {tuple(tracks.shape)}.")
    if twin.spec.members > 1:
        raise ValueError(f"fit_particle_residual needs a twin under one value of each parameter, got one with {twin.spec.members} members.")
    layout = layout_of(record(twin, tracks[:1]).state)
    if isinstance(twin, SpringTwin) and method == "forces":
        found = fit_spring_forces(twin, record(twin, tracks), folds=settings.folds, margin=settings.margin, seed=settings.seed)
        return FittedParticleResidual(found.model, found.kept, found.gain, found.standard_error, found.held_out, found.seconds, found.why, found.forces)
    frame, free, pushed = _frame(twin, tracks, anchors, driven)
    rollouts = rolled_out(twin, tracks, record)
    source = RolloutSource(twin, tracks, record, parameters, settings.jitter, max(3, tracks.shape[1] // 4), settings.seed)
    with calibration_progress(progress) as bar:
        task = bar.add_task("learning the residual", total=1.0, loss=float(rollouts.run_errors().mean()))

        def report(share: float, loss: float) -> None:
            bar.update(task, advance=share, loss=loss)

        blank = correction_for(rollouts, frame, free, pushed, mirror=_alike(twin) if settings.mirror is None else settings.mirror)
        rounds = settings.ridge_rounds if method == "ridge" else settings.rounds
        lessons = [Lesson.of(blank, drawn, runs) for runs, drawn in (source.draw(k % 2 == 0) for k in range(rounds))]
        fit = _fit_ridge if method == "ridge" else _fit_recurrent
        correction, gains, curves = fit(blank, rollouts, lessons, settings, report)
    seen = ~gains.isnan()
    alone = float(rollouts.run_errors()[seen].mean()) if bool(seen.any()) else float("nan")
    gain, error, kept, why = judged(gains[seen], settings.margin)
    model = ParticleResidual(twin, correction, layout) if kept else twin
    return FittedParticleResidual(model, kept, gain, error, alone, time.perf_counter() - begin, why, correction.eval(), curves)


def _alike(twin: Twin[Any]) -> bool:
    """Whether what the twin is of has two sides that are alike."""
    return not (isinstance(twin, RodTwin) and bool(twin.natural_curvature.any()))


def _frame(
    twin: Twin[Any], tracks: Tensor, anchors: tuple[int, int] | None, driven: Sequence[int] | None
) -> tuple[ParticleFrame, tuple[int, ...], tuple[int, ...]]:
    """The frame, the particles that are corrected, and those whose changes of velocity are seen."""
    vertices = tracks.shape[2]
    if driven is None:
        driven = twin.rod.driven if isinstance(twin, RodTwin) else (~twin.body.free).nonzero().flatten().tolist() if isinstance(twin, SpringTwin) else ()
    if anchors is None and isinstance(twin, SpringTwin):
        anchors = widest(tracks)
    for k in (*driven, *(anchors or ())):
        if not -vertices <= k < vertices:
            raise ValueError(f"fit_particle_residual names particle {k}, but there are {vertices}.")
    held = sorted(k % vertices for k in driven)
    first, second = anchors or ((held[0], held[-1]) if len(held) > 1 else (0, vertices - 1))
    free = tuple(k for k in range(vertices) if k not in held)
    if not free:
        raise ValueError("fit_particle_residual needs a particle that is not driven.")
    return ParticleFrame(first % vertices, second % vertices), free, tuple(held)


Report = Callable[[float, float], None]
Fit = tuple[ParticleCorrection, Tensor, tuple[Curve, ...]]


def _fit_ridge(blank: ParticleCorrection, rollouts: Rollouts, lessons: Sequence[Lesson], settings: ResidualSettings, report: Report) -> Fit:
    """The ridge, its strength chosen by cross-validation over runs; the gain of each run without itself."""
    part = LeakyMap(blank.axes.shape[1], len(blank.basis), features=settings.features, seed=settings.seed)
    correction, fold = with_maps(blank, [part]), folds_of(len(rollouts), settings.folds, settings.seed)
    count = int(fold.max()) + 1
    sums = RidgeSums(correction, count)
    for lesson in lessons:
        sums.add(lesson, fold[lesson.runs])
        report(0.7 / len(lessons), math.nan)
    errors = torch.full((len(STRENGTHS), len(rollouts)), math.nan)
    for k in range(count):
        mine = (fold == k).nonzero().flatten()
        for j, weights in enumerate(sums.solve(STRENGTHS, without=k)):
            part.weights.data = weights
            errors[j, mine] = rollouts[mine].run_errors(changes(correction, rollouts[mine]))
        report(0.3 / count, float(errors[:, mine].mean(1).amin()))
    best = int(errors.mean(1).argmin())
    part.weights.data = sums.solve(STRENGTHS[best : best + 1])[0]
    return correction, rollouts.run_errors() - errors[best], ()


def _fit_recurrent(blank: ParticleCorrection, rollouts: Rollouts, lessons: Sequence[Lesson], settings: ResidualSettings, report: Report) -> Fit:
    """Networks, each with its own held-out runs."""
    count, members = len(rollouts), settings.members
    aside = min(max(round(settings.held_out * count), -(-FEWEST // members)), count // 2)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    maps, curves, gains = [], [], torch.full((count,), math.nan)
    for member in range(members):
        held, seed = order.roll(-member * aside)[:aside], settings.seed * 1000 + member
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            part = RecurrentMap(blank.axes.shape[1], len(blank.basis), settings.hidden)
        curve = train_recurrent(
            with_maps(blank, [part]),
            [lesson.some((~torch.isin(lesson.runs, held)).nonzero().flatten()) for lesson in lessons],
            rollouts[held],
            steps=settings.steps,
            seconds=settings.seconds / members,
            learning_rate=settings.learning_rate,
            batch=settings.batch,
            evaluations=settings.evaluations,
            seed=seed,
            report=lambda share, loss: report(share / members, loss),
        )
        gains[held] = rollouts[held].run_errors() - _at_moments_of_others(curve.errors)
        maps.append(part)
        curves.append(curve)
    return with_maps(blank, maps), gains, tuple(curves)


def _at_moments_of_others(errors: Tensor) -> Tensor:
    """(n,) of errors (K, n): each run's at the evaluation that is best for the other half of the runs."""
    half = torch.arange(errors.shape[1]) % 2 == 0
    found = torch.empty(errors.shape[1])
    for mine in (half, ~half):
        others = errors[:, ~mine] if bool((~mine).any()) else errors
        if bool(mine.any()):
            found[mine] = errors[int(others.mean(1).argmin()), mine]
    return found
