"""Predicted points beside what was seen, from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structwm.transition import Trajectory

from . import figures
from .evaluation import Kind
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILLION

COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)  # of objects, in turn
MARGIN = 0.02  # around what is drawn [m]


def draw_point_predictions(
    seen: Trajectory, predictions: Mapping[str, Trajectory], instants: Sequence[int], *, robot: Tensor | None = None, which: int = 0, kind: Kind = "png"
) -> bytes:
    """The points of one run from above: a row for each model, a column for each instant; what was seen is grey, predictions have a colour for each object.

    Args:
        seen: what happened, batch axes (N,), with a points view.
        predictions: by title, of as many runs and steps.
        instants: steps that are drawn.
        robot: (N, T, M, 3) points of the robot [m], drawn black.
        which: run.
        kind: of picture.

    Raises:
        ValueError: if an instant lies beyond the run, or there is no prediction.
    """
    if not predictions or not instants or max(instants) > seen.horizon or min(instants) < 0:
        raise ValueError(f"draw_point_predictions needs a prediction and instants from 0 to {seen.horizon}, got {len(predictions)} and {list(instants)}.")
    truth, shown = seen.points(), {title: trajectory.points() for title, trajectory in predictions.items()}
    counted = torch.ones_like(truth.positions[..., 0], dtype=torch.bool) if truth.mask is None else truth.mask
    drawn = truth.positions[which, list(instants)][counted[which, list(instants)]][:, :2]
    drawn = torch.cat((drawn, *([] if robot is None else [robot[which, list(instants)].flatten(0, 1)[:, :2]])))
    low, high = (drawn.amin(0) - MARGIN).tolist(), (drawn.amax(0) + MARGIN).tolist()
    shape = (high[1] - low[1]) / (high[0] - low[0])
    with figures.look():
        figure = figures.new(2.4 * len(instants) + 0.6, (2.4 * shape + 0.35) * len(shown) + 0.3)
        grid = figure.subplots(len(shown), len(instants), squeeze=False, sharex=True, sharey=True)
        for row, (title, points) in zip(grid, shown.items(), strict=True):
            for axes, t in zip(row, instants, strict=True):
                here = counted[which, t]
                _dots(axes, truth.positions[which, t][here], GREY, 5.0)
                ids = torch.zeros_like(here, dtype=torch.int64) if points.ids is None else points.ids[which, t]
                for number in ids[here].unique().tolist():
                    _dots(axes, points.positions[which, t][here & (ids == number)], COLORS[number % len(COLORS)], 2.5)
                if robot is not None:
                    _dots(axes, robot[which, t], INK, 2.0)
                axes.set_aspect("equal")
                axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
                axes.tick_params(labelsize=7)
                axes.set_title(f"{title}, {float(seen.times[which, t]):.1f} s" if t == instants[0] else f"{float(seen.times[which, t]):.1f} s", fontsize=9)
        figure.supxlabel("x [m]", fontsize=8.5)
        figure.supylabel("y [m]", fontsize=8.5)
        return figures.to_bytes(figure, kind)


def _dots(axes: object, points: Tensor, color: str, size: float) -> None:
    axes.plot(points[:, 0].numpy(), points[:, 1].numpy(), ".", color=color, markersize=size, linewidth=0)  # type: ignore[attr-defined]
