"""Learned and hybrid models of real pushes beside physics: errors, learning curves, conformal regions, unknown shapes, choosing among pushes.

Part of `python -m benchmarks.pushing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import push_models, push_uncertainty
from benchmarks.claims import claim, fraction_claim, interval_claim, mean_claim
from benchmarks.push_models import Models, base_of
from benchmarks.push_ranking import rank_pushes, show
from structwm.data import Pushes, split
from structwm.demos.pushing import one_thread
from structwm.physics.calibration import Calibration
from structwm.physics.push_features import PushGeometry
from structwm.physics.push_learning import learned_push_model, unseen_push_model
from structwm.physics.pushing import PushTwin
from structwm.physics.recorded_pushes import final_pose, push_twin
from structwm.roles import Ranking

LEVEL = 0.9
KINDS = ("physics", "learned", "hybrid")


def learning(cells: tuple[Pushes, ...], calibrations: Sequence[Calibration[PushTwin]], quick: bool, console: Console) -> dict[str, Any]:
    """All claims on models that learn real pushes; a quick run reads the models that the last full run trained, and judges some of them."""
    tests = [pushes[split(pushes)[1]] for pushes in cells]
    if quick:
        models = push_models.kept(cells)
    else:
        models = push_models.all_trained(cells, console)
        push_models.keep(models, cells)
    with one_thread():
        return _judged(cells, tests, calibrations, models, quick, console)


def _judged(
    cells: tuple[Pushes, ...],
    tests: list[Pushes],
    calibrations: Sequence[Calibration[PushTwin]],
    models: dict[int, Models],
    quick: bool,
    console: Console,
) -> dict[str, Any]:
    sizes = [min(models), max(models)] if quick else sorted(models)
    curves, gates = {}, {}
    if not quick:
        curves[f"{push_models.ALONE}, each cell by itself"] = push_models.each_alone(cells)
        gates[f"{push_models.ALONE}, each cell by itself"] = "each its own"
    for size in sizes:
        count = str(sum(min(size, len(split(pushes)[0])) for pushes in cells))
        curves[count], gates[count] = push_models.errors(models[size], tests), f"{models[size].gate:g}"
    worst = push_models.show_curves(curves, gates, console)
    full, errors = models[max(models)], curves[count]
    inside, widths = push_uncertainty.hybrid_regions(cells, calibrations, full, LEVEL, console)
    known = push_uncertainty.KnownTwins.kept(cells) if quick else push_uncertainty.KnownTwins.calibrated(cells)
    if not quick:
        known.keep()
    shapes = sorted({pushes.shape for pushes in cells})
    areas = push_uncertainty.unknown_shapes(cells, known, shapes[::4] if quick else shapes, console, every=4 if quick else 1)
    why = "the full run only: it trains a model for each shape"
    unseen = None if quick else left_out_shapes(cells, console)["learned, shape unseen"]
    return {
        "hybrid_error_mm": mean_claim(1e3 * errors["hybrid"][0]),
        "hybrid_error_rad": mean_claim(errors["hybrid"][1]),
        "hybrid_error_learned_mm": mean_claim(1e3 * errors["learned"][0]),
        "hybrid_error_learned_rad": mean_claim(errors["learned"][1]),
        "hybrid_curve_worst_ratio": claim(worst, n=len(curves)),
        "hybrid_coverage": fraction_claim(int(inside.sum()), len(inside)),
        "hybrid_region_width_mm": claim(1e3 * float(widths.median(0).values[:2].mean()), n=len(widths)),
        "hybrid_unknown_shape_auroc": _spread_claim(areas["one push"]),
        "hybrid_unknown_shape_auroc_5": _spread_claim(areas[f"{push_uncertainty.TOGETHER} pushes"]),
        "hybrid_unseen_shape_learned_mm": claim(None, why=why) if unseen is None else _spread_claim(1e3 * unseen[:, 0]),
        **_choices(tests, full, quick, console),
    }


def left_out_shapes(cells: Sequence[Pushes], console: Console) -> dict[str, np.ndarray]:
    """Mean position error [m] and yaw error [rad] on the test pushes of each shape left out in turn, (shapes, 2) by model.

    The learned model never saw the shape, knows its outline, and takes the tip's offset and radius from the other shapes on the surface; one of the two
    uncalibrated twins is given these too.
    """
    shapes = sorted({pushes.shape for pushes in cells})
    found: dict[str, list[np.ndarray]] = {}
    for shape in shapes:
        inner = [pushes for pushes in cells if pushes.shape != shape]
        learned = learned_push_model([pushes[split(pushes)[0]] for pushes in inner])
        errors: dict[str, list[np.ndarray]] = {}
        for pushes in (pushes for pushes in cells if pushes.shape == shape):
            test, twin = pushes[split(pushes)[1]], push_twin(pushes)
            beside = [base_of(model).geometry for model, other in zip(learned.models, inner, strict=True) if other.surface == pushes.surface]
            x, y, radius = np.mean([(*geometry.tip_offset, geometry.pusher_radius) for geometry in beside], axis=0)
            geometry = PushGeometry(twin.shape, float(radius), (float(x), float(y)))
            informed = twin.with_parameters({"tip_offset_x": x, "tip_offset_y": y, "pusher_radius": radius})
            models = {"learned, shape unseen": unseen_push_model(learned, pushes, geometry), "twin, uncalibrated": twin, "the same, tip known": informed}
            predicted = {"hold still": test.init_pose} | {name: final_pose(model, test) for name, model in models.items()}
            for name, poses in predicted.items():
                errors.setdefault(name, []).append(np.stack(test.errors(poses), -1))
        for name, each in errors.items():
            found.setdefault(name, []).append(np.concatenate(each).mean(axis=0))
    table = Table("model", *shapes, "mean", title="mean error on test pushes of a shape left out [mm | rad]")
    means = {name: np.stack(values) for name, values in found.items()}
    for name, values in means.items():
        table.add_row(name, *(f"{1e3 * mm:.2f} | {rad:.3f}" for mm, rad in [*values, values.mean(axis=0)]))
    console.print(table)
    return means


def _choices(tests: list[Pushes], models: Models, quick: bool, console: Console) -> dict[str, Any]:
    """Regret of choosing among 32 recorded pushes."""
    parts: dict[str, list[Ranking]] = {}
    for k, pushes in enumerate(tests):
        predicted = {name: final_pose(getattr(models, name)[k], pushes) for name in KINDS} | {"published poly4": pushes.published["poly4"]}
        for name, ranking in rank_pushes(pushes, predicted, goals=40 if quick else None).items():
            parts.setdefault(name, []).append(ranking)
    pooled = {name: Ranking.pooled(rankings) for name, rankings in parts.items()}
    show(pooled, console)
    hybrid = pooled["hybrid"]
    regrets = {"": hybrid.regret, "physics_": pooled["physics"].regret, "learned_": pooled["learned"].regret, "random_": hybrid.random_regret}
    return {f"hybrid_regret_{name}mm": interval_claim(regret, hybrid.goals, scale=1e3) for name, regret in regrets.items()}


def _spread_claim(values: np.ndarray) -> dict[str, Any]:
    """The mean over shapes left out, with the least and the greatest."""
    return claim(float(values.mean()), n=len(values), low=float(values.min()), high=float(values.max()))
