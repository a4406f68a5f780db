"""Figures of evaluations: errors over the horizon, one-step errors, choosing among candidates, stated against observed coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from structwm.roles.coverage import Coverage
from structwm.roles.evaluation import Evaluation, Quantity, number
from structwm.roles.ranking import Interval

from . import figures
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILLION

Array = NDArray[Any]
Kind = Literal["svg", "png"]
PAINT = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
COLUMNS, PANELS = 3, 9  # panels side by side, and at most


def draw_evaluation(evaluations: Mapping[str, Evaluation], *, kind: Kind = "png") -> dict[str, bytes]:
    """Every figure that these evaluations of models on the same windows allow, by name."""
    drawn = {"open_loop": draw_open_loop(evaluations, kind=kind), "one_step": draw_one_step(evaluations, kind=kind)}
    if any(evaluation.ranking is not None for evaluation in evaluations.values()):
        drawn["ranking"] = draw_ranking(evaluations, kind=kind)
    if any(evaluation.coverage for evaluation in evaluations.values()):
        drawn["reliability"] = draw_reliability(evaluations, kind=kind)
    return drawn


def colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for every model; the first is blue."""
    return {name: PAINT[i % len(PAINT)] for i, name in enumerate(names)}


def grid_of(count: int) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, at most three side by side, and its axes."""
    columns = 2 if count == 4 else min(COLUMNS, count)
    rows = -(-count // columns)
    figure = figures.new(max(4.6, 3.5 * columns), 2.7 * rows + 0.45)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def short_of(unit: str, size: float) -> tuple[float, str]:
    """A factor and a unit in which a size reads well: metres below a tenth become millimetres."""
    return (1000.0, "mm") if unit == "m" and size < 0.1 else (1.0, unit)


def label_of(name: str, unit: str) -> str:
    """A name with its unit."""
    return f"{name} [{unit}]" if unit else name


Panel = Callable[[Any, dict[str, Quantity], dict[str, str]], None]
"""Draws one quantity of several models, by their names, into axes, in their colours."""


def _by_quantity(evaluations: Mapping[str, Evaluation], panel: Panel, labels: tuple[str, str], kind: Kind) -> bytes:
    """A picture with a panel for each quantity."""
    shown, paint = _quantities(evaluations), colors(list(evaluations))
    with figures.look():
        figure, axes = grid_of(len(shown))
        for axis, name in zip(axes, shown, strict=True):
            panel(axis, {model: q for model, evaluation in evaluations.items() for q in evaluation.quantities if q.name == name}, paint)
        _finish(figure, axes, *labels)
        return figures.to_bytes(figure, kind)


def draw_open_loop(evaluations: Mapping[str, Evaluation], *, kind: Kind = "png") -> bytes:
    """Absolute errors of free-running rollouts, median and quartiles over windows, beside holding still; a panel for each coordinate."""
    return _by_quantity(evaluations, _open_loop, ("steps since the start", "absolute error"), kind)


def _open_loop(axis: Any, quantities: dict[str, Quantity], paint: dict[str, str]) -> None:
    first = next(iter(quantities.values()))
    scale, unit = short_of(first.unit, _finite_max(first.still))
    for model, quantity in quantities.items():
        curve = {part: scale * values for part, values in quantity.curve().items()}
        _band(axis, curve, color=paint[model], label=model)
    still = scale * first.curve("still")["median"]
    steps = np.arange(1, len(still) + 1)
    axis.plot(steps, still, color=GREY, linestyle=(0, (4, 2)), linewidth=1.4, label="hold still", marker="o" if len(steps) == 1 else None)
    axis.set(title=label_of(first.name, unit), xlim=(min(1, len(steps) - 1), max(len(steps), 2)))
    set_scale(axis, still, [scale * q.curve()["median"] for q in quantities.values()])
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_one_step(evaluations: Mapping[str, Evaluation], *, kind: Kind = "png") -> bytes:
    """Distributions of absolute one-step errors beside the changes that holding still misses, on a logarithmic axis, with their medians."""
    return _by_quantity(evaluations, _one_step, ("absolute one-step error (dotted: median)", "share of steps [%]"), kind)


def _one_step(axis: Any, quantities: dict[str, Quantity], paint: dict[str, str]) -> None:
    first = next(iter(quantities.values()))
    samples = {"hold still": first.one_step_still} | {model: q.one_step for model, q in quantities.items()}
    bins = _log_bins(list(samples.values()))
    for model, values in samples.items():
        known = np.clip(values[np.isfinite(values)], bins[0], bins[-1])
        if not len(known):
            continue
        color = GREY if model == "hold still" else paint[model]
        share = np.full(len(known), 100 / len(known))
        axis.hist(known, bins, weights=share, histtype="stepfilled", color=color, alpha=0.22)
        axis.hist(known, bins, weights=share, histtype="step", color=color, linewidth=1.4, label=model)
        axis.axvline(np.median(known), color=color, linewidth=1.1, linestyle=(0, (1.5, 1.5)))
    axis.set(title=label_of(first.name, first.unit), xscale="log", xlim=(bins[0], bins[-1]))


def draw_ranking(evaluations: Mapping[str, Evaluation], *, kind: Kind = "png") -> bytes:
    """Regret of each model's choice among the candidates between the oracle's, which is 0, and a random one's; and Kendall's tau."""
    rankings = {model: evaluation.ranking for model, evaluation in evaluations.items() if evaluation.ranking is not None}
    paint, first = colors(list(evaluations)), next(iter(rankings.values()))
    unit = next(evaluation.cost_unit for evaluation in evaluations.values() if evaluation.ranking is not None)
    regrets = {"oracle": Interval(0.0)} | {model: ranking.regret for model, ranking in rankings.items()} | {"random": first.random_regret}
    taus = {"oracle": Interval(1.0)} | {model: ranking.tau for model, ranking in rankings.items()} | {"random": Interval(0.0)}
    with figures.look():
        figure = figures.new(9.6, 1.25 + 0.42 * len(regrets))
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, bars, label in ((left, regrets, label_of("regret", unit)), (right, taus, "Kendall's tau")):
            for row, (model, value) in enumerate(bars.items()):
                _bar(axis, row, value, INK if model == "oracle" else GREY if model == "random" else paint[model])
            axis.set_xlabel(label)
            axis.grid(axis="y", visible=False)
            axis.axvline(0, color=GREY, linewidth=0.8)
            axis.margins(x=0.16)
        left.set_xlim(left=0)
        left.set_yticks(range(len(regrets)), list(regrets))
        left.invert_yaxis()
        left.set_title(f"choosing of {first.candidates} candidates for {first.goals} goals")
        right.set_title("predicted against true order")
        return figures.to_bytes(figure, kind)


def draw_reliability(evaluations: Mapping[str, Evaluation], *, kind: Kind = "png") -> bytes:
    """Observed against nominal coverage, and coverage over the horizon, of members and regions."""
    found = [(model, coverage) for model, evaluation in evaluations.items() for coverage in evaluation.coverage]
    paint = colors(list(evaluations)) if len(found) <= len(evaluations) else {}
    with figures.look():
        figure = figures.new(9.6, 3.9)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        left.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label="as stated")
        for index, (model, coverage) in enumerate(found):
            color = paint.get(model, PAINT[index % len(PAINT)])
            _reliability(left, coverage, color, model if len(found) == 1 else f"{model}, {coverage.title.removeprefix('coverage of ')}")
            _over_horizon(right, coverage, color, levels=3 if len(found) == 1 else 1)
        left.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="nominal level", ylabel="share observed inside", title="all steps")
        left.legend(loc="upper left", fontsize=8.5)
        right.set(ylim=(0, 1.02), xlabel="steps since the start", title="by step (dashed: nominal)")
        right.xaxis.get_major_locator().set_params(integer=True)
        return figures.to_bytes(figure, kind)


def _reliability(axis: Any, coverage: Coverage, color: str, label: str) -> None:
    marker = "o" if coverage.source == "members" else "s"
    values = np.array([share.value for share in coverage.overall])
    low, high = (np.array([getattr(share, side) for share in coverage.overall]) for side in ("low", "high"))
    bars = np.nan_to_num(np.stack([values - low, high - values])).clip(0)
    axis.errorbar(coverage.levels, values, yerr=bars, color=color, marker=marker, markersize=5, linewidth=1.6, capsize=2, label=label)


def _over_horizon(axis: Any, coverage: Coverage, color: str, *, levels: int) -> None:
    """One line a level, averaged over columns: the level nearest to 90 %, or up to three; each named where its nominal line ends."""
    if not coverage.levels:
        return
    spread = sorted({0, len(coverage.levels) // 2, len(coverage.levels) - 1})
    chosen = spread if levels > 1 else [int(np.argmin(np.abs(np.array(coverage.levels) - 0.9)))]
    for alpha, index in zip((0.45, 0.7, 1.0)[-len(chosen) :], chosen, strict=True):
        curve, nominal = np.nanmean(coverage.share[index], axis=-1), coverage.levels[index]
        steps = np.arange(1, len(curve) + 1)
        axis.plot(steps, curve, color=color, alpha=alpha, linewidth=1.6, marker="o" if len(steps) < 3 else None)
        axis.axhline(nominal, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
        axis.text(1.01, nominal, f"{100 * nominal:g} %", transform=axis.get_yaxis_transform(), va="center", fontsize=8, color=INK)


def _bar(axis: Any, row: int, value: Interval, color: str) -> None:
    """A horizontal bar with its interval and its value."""
    if not np.isfinite(value.value):
        axis.text(0, row, " undefined", va="center", color=GREY)
        return
    axis.barh(row, value.value, height=0.55, color=color, alpha=0.9)
    if np.isfinite(value.low):
        axis.plot([value.low, value.high], [row, row], color=INK, linewidth=1.4)
    end = max(value.value, value.high if np.isfinite(value.high) else value.value, 0.0)
    axis.annotate(number(value.value), (end, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)


def _band(axis: Any, curve: Mapping[str, Array], *, color: str, label: str) -> None:
    """Median and quartiles over steps; a bar where there is one step only."""
    steps = np.arange(1, len(curve["median"]) + 1)
    finite = np.isfinite(curve["high"])
    if len(steps) == 1:
        axis.errorbar(steps, curve["median"], yerr=[curve["median"] - curve["low"], curve["high"] - curve["median"]], color=color, marker="o", label=label)
        return
    axis.fill_between(steps[finite], curve["low"][finite], curve["high"][finite], color=color, alpha=0.18, linewidth=0)
    axis.plot(steps[finite], curve["median"][finite], color=color, linewidth=1.8, label=label)


def _finish(figure: Any, axes: Sequence[Any], x: str, y: str) -> None:
    """One legend above, the axes' names at the edges."""
    figure.supxlabel(x, fontsize=9.5)
    figure.supylabel(y, fontsize=9.5)
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True) if label not in handles}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=6, fontsize=9)


def set_scale(axis: Any, still: Array, curves: Sequence[Array]) -> None:
    """From zero, or, where holding still is far worse than every curve, logarithmic over four decades at most."""
    top = float(axis.dataLim.y1)
    top = top if np.isfinite(top) and top > 0 else 0.1
    known = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in curves])
    if len(known) and _finite_max(still) > 10 * np.median(known):
        axis.set_yscale("log")
        axis.set_ylim(max(0.6 * float(known.min()), top / 1e4), 1.5 * top)
    else:
        axis.set_ylim(0, 1.06 * top)


def _quantities(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Names of what is drawn: all there is, or, of more than there is room for, the first and the points."""
    names = list(dict.fromkeys(quantity.name for evaluation in evaluations.values() for quantity in evaluation.quantities))
    if len(names) <= PANELS:
        return names
    return [*names[: PANELS - 1], names[-1]]


def _finite_max(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0


def _log_bins(samples: Sequence[Array], *, count: int = 45) -> Array:
    """Logarithmic bins that hold nearly all of several samples, over four decades at most; zeros go to the first."""
    known = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in samples])
    if not len(known):
        return np.geomspace(1e-6, 1e-2, count)
    low, high = np.quantile(known, [0.005, 0.999])
    return np.geomspace(max(low, high / 1e4) * 0.8, high * 1.3, count)
