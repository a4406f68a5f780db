"""Learning to push: corrections of calibrated twins (hybrid), and models without a twin (learned), for one object or a family of objects and surfaces.

Hybrid: the correction learns from errors of twins that did not see the push (out-of-fold), and a gate decides how much of it is used: twins that leave out
pairs of folds give the correction's own error on pushes that neither twin nor correction saw. Single left-out folds would not do: their errors lean against
each other, because what one fold lacks the others have.

Learned: the slider gives way along the contact normal, and the same kind of correction, found by Gauss-Newton steps on whole rollouts, does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from structwm.data.pushes import Pushes
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

from .calibration import Settings, calibrate
from .family import calibrate_family
from .posterior import Prior
from .push_correction import Block, Fused, GeometricPush, KernelRates, PushCorrection
from .push_features import GEOMETRY, PushGeometry
from .push_process import SCALE, Effect, Part, RateProcess, linearise, wrap_yaw
from .pushing import CALIBRATED, PushScene, PushState, PushTwin
from .recorded_pushes import CONTACT, PARAMETERS, SECONDS, contact_gap, final_pose, push_recording, push_twin

STEPS, SUBSTEPS = 10, 3  # of a recorded push
Calibrator = Callable[[Sequence[Pushes]], Sequence[PushTwin]]

_FRAME = ("arm", "reach", "angle", "slide", "turn")
_PLACE = Block(("world_x", "world_y", "grain_c", "grain_s", "angle"), (0.5, 0.5, 1.0, 1.0, 1.0), 120, seed=2)
HYBRID = (
    Part(Block(_FRAME, (0.7, 0.5, 0.7, 0.7, 0.7), 120, seed=0), own=0.06),
    Part(Block(_FRAME, (1.4, 1.0, 1.4, 1.4, 1.4), 120, odd=True, seed=1), common=0.03),
    Part(_PLACE, surface=0.03),
)
"""Parts of a correction of a calibrated twin, chosen by nested cross-validation on the calibration pushes of `mit_push`."""
LEARNED = (
    Part(Block(("arm", "reach", "angle", "spread", "skew"), (0.7, 0.5, 0.5, 0.3, 0.3), 200, odd=True, seed=3), common=0.5),
    Part(Block(("arm", "reach", "angle"), (0.7, 0.5, 0.5), 120, seed=4), own=0.2),
    Part(Block(("body_x", "body_y", "normal_x", "normal_y", "motion_x", "motion_y"), (0.8,) * 6, 150, seed=5), shape=0.2),
    Part(_PLACE, surface=0.05),
)
"""Parts of a model without a twin, chosen in the same way."""
GATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a correction that are tried."""
AMPLITUDES = (1.0, 3.0, 10.0)
"""Factors of the parts' standard deviations that are tried: a twin that is far off needs larger corrections than a calibrated one."""


@dataclass(frozen=True)
class LearnedPushes:
    """Models of K cells and how they were found."""

    models: tuple[Residual[PushState], ...]  # steps of SECONDS / STEPS
    process: RateProcess  # gives weights for cells that were not seen, too
    gate: float  # share of the correction that is used
    scores: dict[float, tuple[float, float]]  # cross-validated mean errors [m], [rad] by gate; empty where no gate was fitted
    errors: tuple[Tensor, ...]  # (n, 3) a cell: predicted minus observed final poses [m, m, rad] of models that did not see the push; they chose the gate


def calibrate_in_contact(cells: Sequence[Pushes]) -> list[PushTwin]:
    """Twins of real pushes that start and end in contact: friction, pressure and geometry, all cells together."""
    factors = {"surface": [p.surface for p in cells], "shape": [p.shape for p in cells]}
    settings = Settings(evaluations=0, iterations=12, dof=8.0)
    twins, recordings = [push_twin(p) for p in cells], [push_recording(p) for p in cells]
    fitted = calibrate_family(twins, recordings, PARAMETERS, factors=factors, evidence=[CONTACT], settings=settings, progress=False)
    return [calibration.twin for calibration in fitted]


def calibrate_known_geometry(cells: Sequence[Pushes]) -> list[PushTwin]:
    """Twins of pushes whose geometry is known, each on its own: friction and pressure."""
    settings = Settings(evaluations=0)
    return [calibrate(push_twin(p), push_recording(p), CALIBRATED, held_out=None, settings=settings, progress=False).twin for p in cells]


def with_steps(twin: PushTwin) -> Fused:
    """A twin of whole pushes with `STEPS` steps a push."""
    values = {name: value.double() for name, value in twin.values.items()}
    return Fused(twin.with_parameters(values).with_timing(dt=SECONDS / STEPS, substeps=SUBSTEPS))


def hybrid_push_model(
    cells: Sequence[Pushes], *, calibrator: Calibrator = calibrate_in_contact, parts: Sequence[Part] = HYBRID, folds: int = 5, seed: int = 0
) -> LearnedPushes:
    """Calibrated twins and a gated correction of them.

    Args:
        cells: the calibration pushes of each cell.
        calibrator: fits twins to pushes of all cells; it is called 1 + folds + folds (folds - 1) / 2 times.
        parts: of the correction.
        folds: F >= 3, of the cross-validation; every cell needs as many pushes.
        seed: of the folds.
    """
    if folds < 3:
        raise ValueError(f"hybrid_push_model needs at least 3 folds, as pairs of them are left out, got {folds}.")
    _check(cells, folds)
    fold = [np.random.default_rng([seed, k]).permutation(len(p)) % folds for k, p in enumerate(cells)]
    names = [(p.surface, p.shape) for p in cells]
    twins = calibrator(cells)
    left_out = {
        drop: calibrator([p[np.flatnonzero(~np.isin(f, drop))] for p, f in zip(cells, fold, strict=True)])
        for size in (1, 2)
        for drop in combinations(range(folds), size)
    }
    data = _Folds(cells, fold)
    single = [(g, left_out[g,]) for g in range(folds)]
    seen = [[(g, left_out[min(q, g), max(q, g)]) for g in range(folds) if g != q] for q in range(folds)]
    effects, unseen = [data.effect(part) for part in seen], [data.effect([part]) for part in single]
    amplitude = _best_amplitude(parts, names, effects, unseen)
    found = []
    for q in range(folds):
        process = data.refined(RateProcess(parts, names, amplitude=amplitude).fit(effects[q]), seen[q])
        found.append(data.errors(single[q], process))
    share, scores = gate({s: torch.cat([errors[s] for errors in found]) for s in GATES})
    process = RateProcess(parts, names, amplitude=amplitude).fit(Effect.cat(unseen))
    process = data.refined(process, single) if share > 0 else process
    models = [Residual(with_steps(twin), correction_of(process, PushGeometry.of(twin), name, share=share)) for twin, name in zip(twins, names, strict=True)]
    return LearnedPushes(tuple(models), process, share, scores, data.in_order([-of_share[share] for of_share in found]))


Left = tuple[int, Sequence[PushTwin]]
"""A fold, and the twins of all cells that did not see it."""


@dataclass(frozen=True)
class _Folds:
    """The calibration pushes of all cells, cut into folds."""

    cells: Sequence[Pushes]
    fold: Sequence[np.ndarray]  # of each cell, (n,)

    def _pushes(self, fold: int) -> list[Pushes]:
        return [p[np.flatnonzero(f == fold)] for p, f in zip(self.cells, self.fold, strict=True)]

    def effect(self, parts: Sequence[Left], process: RateProcess | None = None) -> Effect:
        """Effects on the pushes of folds around twins that saw none of them, or around these and a correction.

        With a correction, `error` is still what all of it is to explain: the rest, and to first order what the correction does already.
        """
        each = []
        for fold, twins in parts:
            for k, (twin, pushes) in enumerate(zip(twins, self._pushes(fold), strict=True)):
                geometry = PushGeometry.of(twin)
                correction = None if process is None else correction_of(process, geometry, process.cells[k])
                effect = linearise(with_steps(twin), geometry, pushes, steps=STEPS, cell=k, correction=correction)
                each.append(effect if process is None else replace(effect, error=effect.error + process.predict(effect)))
        return Effect.cat(each)

    def refined(self, process: RateProcess, parts: Sequence[Left]) -> RateProcess:
        """The process fitted once more, to effects around what its correction makes of the paths."""
        return process.fit(self.effect(parts, process))

    def errors(self, part: Left, process: RateProcess) -> dict[float, Tensor]:
        """Errors (N, 3) of rollouts with each share of a correction."""
        fold, twins = part
        found: dict[float, list[Tensor]] = {share: [] for share in GATES}
        for twin, pushes, name in zip(twins, self._pushes(fold), process.cells, strict=True):
            for share, errors in found.items():
                model: TransitionModel[PushState] = with_steps(twin)
                if share > 0:
                    model = Residual(model, correction_of(process, PushGeometry.of(twin), name, share=share))
                errors.append(wrap_yaw(torch.tensor(pushes.final_pose - final_pose(model, pushes))))
        return {share: torch.cat(errors) for share, errors in found.items()}

    def in_order(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Values (N, ...) of each fold's pushes, all cells after one another, as one tensor for each cell in the order of its pushes."""
        counts = [[int((fold == q).sum()) for fold in self.fold] for q in range(len(values))]
        each = zip(*(value.split(count) for value, count in zip(values, counts, strict=True)), strict=True)
        return tuple(torch.cat(parts)[torch.from_numpy(np.argsort(np.argsort(fold, kind="stable")))] for parts, fold in zip(each, self.fold, strict=True))


def _best_amplitude(parts: Sequence[Part], names: Sequence[tuple[str, str]], seen: Sequence[Effect], unseen: Sequence[Effect]) -> float:
    """The amplitude whose best share leaves the smallest errors, to first order."""
    errors = torch.cat([effect.error for effect in unseen])
    losses = {}
    for amplitude in AMPLITUDES:
        process = RateProcess(parts, names, amplitude=amplitude)
        expected = torch.cat([process.fit(s).predict(u) for s, u in zip(seen, unseen, strict=True)])
        share, scores = gate({share: wrap_yaw(errors - share * expected) for share in GATES})
        losses[amplitude] = sum(now / max(before, 1e-12) for now, before in zip(scores[share], scores[0.0], strict=True))
    return min(AMPLITUDES, key=lambda amplitude: losses[amplitude])


def gate(errors: Mapping[float, Tensor]) -> tuple[float, dict[float, tuple[float, float]]]:
    """How much of a correction to use, from the errors (N, 3) that each share of it leaves on pushes it did not see.

    The share with the smallest mean error, position and yaw counted alike relative to no correction; 0 unless it beats that by its standard error.

    Returns:
        The share and the mean errors [m], [rad] by share.
    """
    each = {share: (e[:, :2].norm(dim=-1), e[:, 2].abs()) for share, e in errors.items()}
    scores = {share: (float(position.mean()), float(yaw.mean())) for share, (position, yaw) in each.items()}
    unit = [max(value, 1e-12) for value in scores[0.0]]
    loss = {share: (position / unit[0] + yaw / unit[1]) / 2 for share, (position, yaw) in each.items()}
    best = min(errors, key=lambda share: float(loss[share].mean()))
    gain = loss[0.0] - loss[best]
    sure = float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5
    return (best if sure else 0.0), scores


def correction_of(process: RateProcess, geometry: PushGeometry, cell: tuple[str, str], *, share: float = 1.0) -> PushCorrection:
    """The correction for a cell (surface, shape)."""
    return PushCorrection(geometry, KernelRates([part.block for part in process.parts], share * process.weights(cell)))


def learned_push_model(
    cells: Sequence[Pushes], *, geometry: Sequence[PushGeometry] | None = None, parts: Sequence[Part] = LEARNED, iterations: int = 4, process: float = 0.4
) -> LearnedPushes:
    """Models without friction or limit surface: a geometric base and a correction, by Gauss-Newton steps on rollouts.

    Args:
        cells: the calibration pushes of each cell.
        geometry: of each cell; default `contact_geometry(cells)`, for pushes that start and end in contact.
        parts: of the rates.
        iterations: Gauss-Newton steps, each kept only if it lowers the robust error on these pushes.
        process: push-to-push variation of the rates.
    """
    _check(cells, 1)
    geometry = contact_geometry(cells) if geometry is None else geometry
    names = [(p.surface, p.shape) for p in cells]
    bases = [geometric_base(p, g) for p, g in zip(cells, geometry, strict=True)]
    rates = RateProcess(parts, names, process=process)
    heads = [KernelRates([part.block for part in parts]).double() for _ in geometry]
    corrections = [PushCorrection(g, head) for g, head in zip(geometry, heads, strict=True)]
    lowest, kept = float("inf"), [head.weights.clone() for head in heads]
    for _ in range(iterations + 1):
        effect = Effect.cat(
            [linearise(b, g, p, steps=STEPS, cell=k, correction=c) for k, (b, g, p, c) in enumerate(zip(bases, geometry, cells, corrections, strict=True))]
        )
        loss = robust(effect.error)
        now = [head.weights.clone() for head in heads]
        if loss < lowest:
            lowest, kept = loss, now
            linear = torch.cat([_effect_of(rates, effect[effect.cell == k], w) for k, w in enumerate(now)])
            rates.fit(replace(effect, error=effect.error + linear))
            proposed = [rates.weights(name) for name in names]
        else:  # halve the step
            proposed = [(a + b) / 2 for a, b in zip(kept, now, strict=True)]
        for head, weights in zip(heads, proposed, strict=True):
            head.weights.data = weights
    for head, weights in zip(heads, kept, strict=True):
        head.weights.data = weights
    models = tuple(Residual(base, correction) for base, correction in zip(bases, corrections, strict=True))
    return LearnedPushes(models, rates, 1.0, {}, ())


def _effect_of(rates: RateProcess, effect: Effect, weights: Tensor) -> Tensor:
    return (torch.cat(rates.design(effect), 1) @ weights.flatten()).reshape(-1, 3) * effect.error.new_tensor(SCALE)


def unseen_push_model(learned: LearnedPushes, pushes: Pushes, geometry: PushGeometry) -> Residual[PushState]:
    """A learned model of a shape that it was not trained on: what all shapes have in common, and what the surface adds.

    Args:
        learned: by `learned_push_model`.
        pushes: of the new object; only surface, shape, outline and tip are read.
        geometry: where its outline and the tip are.
    """
    return Residual(geometric_base(pushes, geometry), correction_of(learned.process, geometry, (pushes.surface, pushes.shape)))


def robust(errors: Tensor, *, dof: float = 6.0) -> float:
    """Mean Student-t loss of errors (N, 3) in units of `SCALE`."""
    return float(torch.log1p((errors / errors.new_tensor(SCALE)).square().sum(-1) / dof).mean())


def geometric_base(pushes: Pushes, geometry: PushGeometry) -> GeometricPush:
    """What the learned model starts from: a slider that gives way along the normal."""
    twin = push_twin(pushes).with_timing(dt=SECONDS / STEPS, substeps=SUBSTEPS)
    assert isinstance(twin.scene, PushScene)
    return GeometricPush(geometry, twin.spec, twin.scene)


def contact_geometry(cells: Sequence[Pushes], *, iterations: int = 8) -> list[PushGeometry]:
    """Where outline and tip really are, from pushes that start and end in contact and nothing else.

    Gauss-Newton on Cauchy-distributed gaps under a normal prior, which from the second round on is the spread over cells.
    """
    twins = [push_twin(p) for p in cells]
    space = [twin.space(GEOMETRY) for twin in twins]
    priors = [Prior.of(s) for s in space]
    found: list[Tensor] = []
    for _ in range(3 if len(cells) > 1 else 1):
        solved = [_gap_fit(t, p, prior, iterations) for t, p, prior in zip(twins, cells, priors, strict=True)]
        found, spread = [z for z, _ in solved], torch.stack([variance for _, variance in solved])
        z = torch.stack(found)
        width = ((z - z.mean(0)).square() + spread).mean(0).sqrt().maximum(0.1 * space[0].spread)
        priors = [Prior(z.mean(0), width.square().diag())] * len(cells)
    return [PushGeometry.of(t.with_parameters(s.unpack(z))) for t, s, z in zip(twins, space, found, strict=True)]


def _gap_fit(twin: PushTwin, pushes: Pushes, prior: Prior, iterations: int) -> tuple[Tensor, Tensor]:
    """Geometry z (n,) and its variances (n,)."""
    space, recording = twin.space(GEOMETRY), push_recording(pushes)
    z, precision = prior.mean.clone(), torch.linalg.inv(prior.covariance)
    offsets = 1e-3 * space.spread.diag()
    hessian = precision
    for _ in range(iterations):
        gaps = contact_gap(twin.with_parameters(space.unpack(torch.cat((z[None], z + offsets, z - offsets)))), recording)
        gaps = gaps.transpose(0, 1).flatten(1) / CONTACT.scale
        jacobian = ((gaps[1 : len(z) + 1] - gaps[len(z) + 1 :]) / (2 * offsets.diagonal()[:, None])).T
        weighted = jacobian.T * (2 / (1 + gaps[0].square()))
        hessian = weighted @ jacobian + precision
        z = z - torch.linalg.solve(hessian, weighted @ gaps[0] + precision @ (z - prior.mean))
    return z, torch.linalg.inv(hessian).diagonal()


def _check(cells: Sequence[Pushes], fewest: int) -> None:
    if not cells or min(map(len, cells)) < fewest:
        raise ValueError(f"learning to push needs at least {fewest} pushes of every cell, got {[len(p) for p in cells]}.")
