"""Figures of a training run, from the lines of its `figures.jsonl`: loss and held-out error over steps, errors over the horizon at several moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import figures
from .evaluation import PANELS, Kind, grid_of, label_of, set_scale, short_of
from .style import BLUE, GREY, INK, PALE, VERMILLION

Array = NDArray[Any]
Lines = Sequence[Mapping[str, Any]]


def draw_training(lines: Lines, *, units: Mapping[str, str] | None = None, kind: Kind = "png") -> dict[str, bytes]:
    """Every figure that these lines allow, by name. `units` are those of the coordinates, by name."""
    drawn = {"progress": draw_progress(lines, kind=kind)} if len(lines) else {}
    if coordinates_of(lines):
        drawn["open_loop"] = draw_moments(lines, units=units, kind=kind)
    return drawn


def draw_progress(lines: Lines, *, kind: Kind = "png") -> bytes:
    """Training loss with the steps that the model predicts freely, and the held-out error with its best moment and holding still, over optimiser steps."""
    steps = _column(lines, "step")
    with figures.look():
        figure = figures.new(9.6, 3.4)
        left, right = figure.subplots(1, 2)
        _line(left, steps, _column(lines, "loss"), color=VERMILLION)
        left.set(title="training loss", xlabel="optimiser step")
        _log_where_wide(left, _column(lines, "loss"))
        horizon = _column(lines, "horizon")
        if np.isfinite(horizon).any() and np.nanmax(horizon) > np.nanmin(horizon):
            beside = left.twinx()
            beside.step(steps, horizon, where="post", color=GREY, linewidth=1.0, linestyle=(0, (4, 2)))
            beside.set(ylim=(0, 1.1 * np.nanmax(horizon)), ylabel="steps predicted freely (dashed)")
            beside.grid(visible=False)
            beside.yaxis.get_major_locator().set_params(integer=True)
        held_out = _column(lines, "held_out")
        _line(right, steps, held_out, color=BLUE)
        right.axhline(1.0, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        right.text(0.99, 1.0, "hold still", transform=right.get_yaxis_transform(), ha="right", va="bottom", color=INK, fontsize=8.5)
        right.set(title="held-out error over that of holding still", xlabel="optimiser step")
        _log_where_wide(right, np.append(held_out, 1.0))
        if np.isfinite(held_out).any():
            best = int(np.nanargmin(held_out))
            low, high = right.get_ylim()
            right.set_ylim(low * (low / high) ** 0.1 if right.get_yscale() == "log" else low, high)  # room for the text below
            right.plot(steps[best], held_out[best], "o", color=BLUE, markersize=7, markeredgecolor=INK)
            side = "right" if steps[best] > 0.6 * steps.max() else "left"
            text = f"best: {held_out[best]:.3g} at step {steps[best]:.0f}"
            right.annotate(text, (steps[best], held_out[best]), xytext=(0, -16), textcoords="offset points", ha=side, fontsize=9)
        return figures.to_bytes(figure, kind)


def draw_moments(lines: Lines, *, units: Mapping[str, str] | None = None, moments: int = 5, kind: Kind = "png") -> bytes:
    """Mean absolute open-loop error over the horizon, from pale before training to dark at the best evaluation, beside holding still; a panel a coordinate."""
    names = coordinates_of(lines)[:PANELS]
    chosen = _moments(lines, moments)
    with figures.look():
        figure, axes = grid_of(len(names))
        for axis, name in zip(axes, names, strict=True):
            curves = [_curve(lines[index], f"error/{name}/") for index in chosen]
            still = next((curve for curve in (_curve(line, f"still/{name}/") for line in lines) if len(curve[0])), (np.zeros(0), np.zeros(0)))
            largest = max((float(np.nanmax(values)) for _, values in (*curves, still) if len(values)), default=0.0)
            scale, unit = short_of((units or {}).get(name, ""), largest)
            for position, (index, (steps, values)) in enumerate(zip(chosen, curves, strict=True)):
                color, step = _shade(position / max(len(chosen) - 1, 1)), lines[index]["step"]
                axis.plot(steps, scale * values, color=color, linewidth=1.8, marker="o" if len(steps) == 1 else None, label=f"step {step:.0f}")
            axis.plot(
                still[0], scale * still[1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.4, marker="o" if len(still[0]) == 1 else None, label="hold still"
            )
            axis.set_title(label_of(name, unit))
            set_scale(axis, scale * still[1], [scale * curves[-1][1]])
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("steps since the start", fontsize=9.5)
        figure.supylabel("mean absolute error", fontsize=9.5)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
        return figures.to_bytes(figure, kind)


def coordinates_of(lines: Lines) -> list[str]:
    """Names of the coordinates whose open-loop errors were logged, in their order."""
    names = [key.split("/", 1)[1].rsplit("/", 1)[0] for line in lines for key in line if key.startswith("error/")]
    return list(dict.fromkeys(names))


def _curve(line: Mapping[str, Any], prefix: str) -> tuple[Array, Array]:
    """Steps and values of the entries `prefix + step`, in the order of the steps."""
    found = sorted((int(key.removeprefix(prefix)), float(value)) for key, value in line.items() if key.startswith(prefix))
    return np.array([step for step, _ in found]), np.array([value for _, value in found])


def _moments(lines: Lines, count: int) -> list[int]:
    """Indices of the first evaluation, the best one, and others evenly between in the logarithm of the held-out error's fall."""
    judged = [index for index, line in enumerate(lines) if any(key.startswith("error/") for key in line)]
    held_out = np.array([float(lines[index].get("held_out", np.nan)) for index in judged])
    best = int(np.nanargmin(held_out)) if np.isfinite(held_out).any() else len(judged) - 1
    spread = np.unique(np.round(np.expm1(np.linspace(0, np.log1p(best), count))).astype(int))
    return [judged[position] for position in spread]


def _shade(share: float) -> tuple[float, ...]:
    """From pale at 0 to blue at 1."""
    from matplotlib.colors import to_rgb

    start, middle, end = (np.array(to_rgb(color)) for color in (PALE, "#7fb8dd", BLUE))
    mixed = start * 0.85 + (middle - start * 0.85) * 2 * share if share < 0.5 else middle + (end - middle) * (2 * share - 1)
    return tuple(float(part) for part in mixed)


def _column(lines: Lines, key: str) -> Array:
    return np.array([float(line.get(key, np.nan)) for line in lines])


def _line(axis: Any, steps: Array, values: Array, *, color: str) -> None:
    known = np.isfinite(values)
    axis.plot(steps[known], values[known], color=color, linewidth=1.8, marker="o" if known.sum() < 25 else None, markersize=3.5)


def _log_where_wide(axis: Any, values: Array) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    if len(known) and known.max() > 8 * known.min():
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
