"""Figures of planar pushing: errors by model, predicted beside measured pushes, closed loops over time, intervals of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import figures
from .animation import ClosedLoop, place, window
from .html import Markup
from .style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILLION

Array = NDArray[np.float64]
PALETTE = (GREY, ORANGE, VERMILLION, SKY, PURPLE)
RUNS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK, GREY)


@dataclass(frozen=True)
class PredictedPushes:
    """n straight pushes of one object: what was measured, and what models predicted."""

    name: str
    outline: Array  # (V, 2) of the slider, body frame [m]
    tip_radius: float  # [m]
    init_pose: Array  # (n, 3) [m, m, rad]
    final_pose: Array  # (n, 3) measured
    init_tip: Array  # (n, 2) centre of the pusher [m]
    final_tip: Array  # (n, 2)
    predicted: Mapping[str, Array]  # final poses (n, 3) by model, in the order in which they are shown

    def errors(self, model: str) -> tuple[Array, Array]:
        """Distance (n,) [m] and absolute wrapped yaw difference (n,) [rad] of a model's predictions to what was measured."""
        difference = self.predicted[model] - self.final_pose
        return np.linalg.norm(difference[:, :2], axis=-1), np.abs((difference[:, 2] + np.pi) % (2 * np.pi) - np.pi)

    def displacement(self, model: str) -> Array:
        """How far the outline's vertices are from where they were measured, mean over them, (n,) [m]: position and yaw in one number."""
        pairs = zip(self.predicted[model], self.final_pose, strict=True)
        return np.array([np.linalg.norm(place(self.outline, ours) - place(self.outline, theirs), axis=1).mean() for ours, theirs in pairs])


def colors(models: Sequence[str], ours: str) -> dict[str, str]:
    """A colour for every model; ours is blue, a floor that comes first grey."""
    others = [model for model in models if model != ours]
    return {model: PALETTE[i % len(PALETTE)] for i, model in enumerate(others)} | {ours: BLUE}


def pooled_errors(cells: Sequence[PredictedPushes], model: str) -> tuple[Array, Array]:
    """Errors of all cells' pushes, [m] and [rad]."""
    position, yaw = zip(*(cell.errors(model) for cell in cells), strict=True)
    return np.concatenate(position), np.concatenate(yaw)


def draw_errors(cells: Sequence[PredictedPushes], models: Sequence[str], *, ours: str) -> bytes:
    """Boxes of the errors of each model over the test pushes of all cells: quartiles, whiskers to 5 and 95 %, the mean as a diamond with its value."""
    paint = colors(models, ours)
    with figures.look():
        figure = figures.new(10.0, 0.85 + 0.42 * len(models))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, part, scale, label in ((axes[0], 0, 1000.0, "position error [mm]"), (axes[1], 1, 1.0, "yaw error [rad]")):
            values = [scale * pooled_errors(cells, model)[part] for model in models]
            boxes = axis.boxplot(values, orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.55, patch_artist=True)
            for model, box, median in zip(models, boxes["boxes"], boxes["medians"], strict=True):
                box.set(facecolor=paint[model], alpha=0.85 if model == ours else 0.45, edgecolor=INK, linewidth=0.8)
                median.set(color=INK, linewidth=1.4)
            limit = 1.3 * max(np.percentile(errors, 95) for errors, model in zip(values, models, strict=True) if model != "hold still")
            for row, (model, errors) in enumerate(zip(models, values, strict=True), start=1):
                mean, bold = float(errors.mean()), "bold" if model == ours else "normal"
                if mean < limit:
                    axis.plot(mean, row, marker="D", color="white", markeredgecolor=INK, markersize=5, zorder=5)
                text = (f"{mean:.2f}" if scale > 1 else f"{mean:.3f}") + ("" if mean < limit else " \N{RIGHTWARDS ARROW}")
                axis.text(1.01, row, text, transform=axis.get_yaxis_transform(), va="center", weight=bold)
            axis.set(xlim=(0, limit), xlabel=label)
            axis.text(1.01, 0.3, "mean", transform=axis.get_yaxis_transform(), va="center", color=GREY)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(1, len(models) + 1), models)
        axes[0].set_ylim(len(models) + 0.6, 0.15)
        for tick, model in zip(axes[0].get_yticklabels(), models, strict=True):
            tick.set_weight("bold" if model == ours else "normal")
        return figures.to_bytes(figure)


def draw_pushes(cells: Sequence[PredictedPushes], *, ours: str, beside: str | None, ranks: Sequence[float] = (0.25, 0.5, 0.75, 0.95)) -> bytes:
    """Single pushes, one row per cell, from well to badly predicted, in millimetres from where the slider started.

    Args:
        cells: what to draw.
        ours: the model that ranks the pushes, by how far the outline's vertices end from where it predicts them.
        beside: a second model to draw.
        ranks: fractions of the pushes that are predicted better than the one shown.
    """
    titles = [f"{100 * rank:.0f} % are predicted better" for rank in ranks]
    with figures.look():
        figure = figures.new(10.0, 2.75 * len(cells) + 0.35)
        grid = figure.subplots(len(cells), len(ranks), squeeze=False)
        for row, cell in zip(grid, cells, strict=True):
            order = np.argsort(cell.displacement(ours))
            chosen = [int(order[min(int(rank * len(order)), len(order) - 1)]) for rank in ranks]
            spans = [_span(cell, k) for k in chosen]
            side = max(float((high - low).max()) for low, high in spans) + 16
            for axis, k, (low, high), title in zip(row, chosen, spans, titles, strict=True):
                _draw_push(axis, cell, k, ours, beside)
                middle = (low + high) / 2
                axis.set(xlim=(middle[0] - side / 2, middle[0] + side / 2), ylim=(middle[1] - side / 2, middle[1] + side / 2), aspect="equal")
                axis.tick_params(labelsize=7.5)
                position, yaw = (values[k] for values in cell.errors(ours))
                axis.set_title(f"{title}\n{1000 * position:.1f} mm, {yaw:.3f} rad off", fontsize=8.5, weight="normal")
            row[0].set_ylabel(f"{cell.name}\ny [mm]")
        for axis in grid[-1]:
            axis.set_xlabel("x [mm]")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
        return figures.to_bytes(figure)


def _span(cell: PredictedPushes, k: int) -> tuple[Array, Array]:
    """Corners of the box [mm] that holds a push, from where the slider started."""
    tips = np.stack([cell.init_tip[k], cell.final_tip[k]])
    points = np.concatenate([place(cell.outline, cell.init_pose[k]), place(cell.outline, cell.final_pose[k]), tips]) - cell.init_pose[k, :2]
    return 1000 * points.min(0), 1000 * points.max(0)


def _draw_push(axis: Any, cell: PredictedPushes, k: int, ours: str, beside: str | None) -> None:
    origin = cell.init_pose[k, :2]

    def outline(pose: Array, **style: Any) -> None:
        points = 1000 * (place(cell.outline, pose) - origin)
        axis.fill(*points.T, **style)

    outline(cell.init_pose[k], facecolor=PALE, edgecolor=GREY, linewidth=0.8, label="start")
    outline(cell.final_pose[k], fill=False, edgecolor=INK, linewidth=2.2, label="end as measured")
    if beside is not None:
        outline(cell.predicted[beside][k], fill=False, edgecolor=VERMILLION, linewidth=1.2, linestyle=(0, (1.5, 1.5)), label=f"predicted: {beside}")
    outline(cell.predicted[ours][k], fill=False, edgecolor=SKY, linewidth=1.6, linestyle=(0, (5, 2)), label=f"predicted: {ours}")
    start, end = 1000 * (cell.init_tip[k] - origin), 1000 * (cell.final_tip[k] - origin)
    axis.plot(*np.stack([start, end]).T, color=PURPLE, linewidth=1.6, label="pusher")
    for centre, alpha in ((start, 0.35), (end, 1.0)):
        axis.add_patch(_disk(centre, 1000 * cell.tip_radius, facecolor=PURPLE, alpha=alpha, zorder=4))


def _disk(centre: Array, radius: float, **style: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle(tuple(centre), radius, **style)


def draw_strip(rows: Sequence[ClosedLoop], *, frames: int = 6) -> bytes:
    """Film strips, one run a row: slider, pusher, its path so far, and the goal, at even times."""
    with figures.look():
        figure = figures.new(10.0, 1.95 * len(rows) + 0.2)
        grid = figure.subplots(len(rows), frames, squeeze=False)
        for axes, loop, (x, y, side) in zip(grid, rows, window(rows), strict=True):
            for axis, t in zip(axes, np.linspace(0, len(loop.poses) - 1, frames).round().astype(int), strict=True):
                axis.fill(*(1000 * place(loop.outline, loop.goal)).T, fill=False, edgecolor=GREEN, linewidth=1.6, linestyle=(0, (4, 2)))
                axis.fill(*(1000 * place(loop.outline, loop.poses[t])).T, facecolor=SKY, alpha=0.75, edgecolor=BLUE, linewidth=1.2)
                axis.plot(*(1000 * loop.pushers[: t + 1]).T, color=VERMILLION, alpha=0.4, linewidth=1.0)
                axis.add_patch(_disk(1000 * loop.pushers[t], 1000 * loop.pusher_radius, facecolor=VERMILLION))
                low, high = 1000 * (np.array([x, y]) - side / 2), 1000 * (np.array([x, y]) + side / 2)
                axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
                axis.set_title(f"{t * loop.dt:.1f} s", fontsize=9, weight="normal")
                for spine in axis.spines.values():
                    spine.set(visible=True, color=PALE)
            axes[0].set_ylabel(loop.title, fontsize=9)
            bar = 1000 * np.array([x - 0.44 * side, y - 0.44 * side])
            axes[0].plot([bar[0], bar[0] + 50], [bar[1], bar[1]], color=INK, linewidth=2)
            axes[0].text(bar[0] + 25, bar[1] + 5, "50 mm", ha="center", fontsize=7.5)
        return figures.to_bytes(figure)


def draw_convergence(groups: Mapping[str, Sequence[ClosedLoop]], *, position_tolerance: float, yaw_tolerance: float) -> bytes:
    """Distance to the goal over time, one column per group of runs and a line per run; the shaded band is within the tolerance [m], [rad]."""
    with figures.look():
        figure = figures.new(10.0, 4.7)
        grid = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
        for column, (name, loops) in enumerate(groups.items()):
            for part, scale, tolerance, floor in ((0, 1000.0, 1000 * position_tolerance, 0.5), (1, 180 / np.pi, np.degrees(yaw_tolerance), 0.1)):
                axis = grid[part][column]
                for number, loop in enumerate(loops):
                    values = np.maximum(scale * loop.errors()[part], floor)
                    label = f"goal {number + 1}" if part == 0 and column == 0 else None
                    axis.plot(np.arange(len(values)) * loop.dt, values, color=RUNS[number % len(RUNS)], linewidth=1.4, label=label)
                    axis.plot((len(values) - 1) * loop.dt, values[-1], "o", color=RUNS[number % len(RUNS)], markersize=4)
                axis.axhspan(floor, tolerance, color=GREEN, alpha=0.12, linewidth=0)
                axis.axhline(tolerance, color=GREEN, linewidth=1.0, linestyle="--")
                axis.set_yscale("log")
                axis.set_ylim(bottom=floor)
                axis.yaxis.set_major_formatter("{x:g}")
            grid[0][column].set_title(name)
            grid[1][column].set_xlabel("time [s]")
        figure.legend(loc="outside lower center", ncols=8)
        grid[0][0].set_ylabel("distance to goal [mm]")
        grid[1][0].set_ylabel("yaw error [deg]")
        return figures.to_bytes(figure)


def interval_bar(value: float, interval: tuple[float, float], before: float) -> Markup:
    """A small drawing for a table cell: a parameter's value and interval, and where it was before."""
    low, high = min(interval[0], before), max(interval[1], before)
    left, right, dot, tick = (8 + 144 * (x - low) / max(high - low, 1e-12) for x in (*interval, value, before))
    return Markup(
        '<svg viewBox="0 0 160 18" width="160" height="18" style="vertical-align: middle" role="img" aria-label="value, interval and value before">'
        f'<line x1="4" x2="156" y1="9" y2="9" stroke="{GREY}" stroke-opacity="0.4"/><line x1="{tick:.1f}" x2="{tick:.1f}" y1="2" y2="16" stroke="{GREY}" '
        f'stroke-width="2"/><rect x="{left:.1f}" y="5" width="{max(right - left, 2):.1f}" height="8" rx="2" fill="{BLUE}" fill-opacity="0.35"/>'
        f'<circle cx="{dot:.1f}" cy="9" r="4" fill="{BLUE}"/></svg>'
    )
