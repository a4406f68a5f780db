"""Figures of ropes that were brought to shapes: start, goal and what was reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import figures
from .style import BLUE, GREY, ORANGE

Array = NDArray[np.float64]
COLUMNS = 6


def rope_shapes(starts: Array, goals: Array, reached: Array, titles: Sequence[str], *, clouds: Sequence[Array] = ()) -> bytes:
    """A panel for each of B ropes, as PNG: from above what lies on the ground, and from the side what hangs.

    Args:
        starts: centre lines (B, V, 3) [m].
        goals: the same.
        reached: the same.
        titles: of the panels, B.
        clouds: (M, 3) each, what was seen of the goals [m].
    """
    rows = -(-len(titles) // COLUMNS)
    with figures.look():
        figure = figures.new(2.1 * min(COLUMNS, len(titles)), 2.3 * rows + 0.3)
        panels = figure.subplots(rows, min(COLUMNS, len(titles)), squeeze=False).ravel()
        for k, title in enumerate(titles):
            along, up = _plane(goals[k])
            if len(clouds):
                panels[k].plot(clouds[k] @ along, clouds[k] @ up, ".", color=ORANGE, markersize=2, label="goal as seen")
            for line, color, width, label in ((starts[k], GREY, 1.0, "start"), (goals[k], ORANGE, 3.0, "goal"), (reached[k], BLUE, 1.5, "reached")):
                panels[k].plot(line @ along, line @ up, color=color, linewidth=width, label=label)
            panels[k].set_title(title, fontsize=8)
            panels[k].set_aspect("equal", adjustable="datalim")
            panels[k].tick_params(labelsize=6)
        for panel in panels[len(titles) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return figures.to_bytes(figure, "png")


def _plane(line: Array) -> tuple[Array, Array]:
    """The axes (3,) of a panel: the ground's for a line (V, 3) that lies on it, else the line's own direction and up."""
    if np.ptp(line[:, 2]) < 0.03:
        return np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    axis = np.linalg.svd(line[:, :2] - line[:, :2].mean(0), full_matrices=False)[2][0]
    return np.array([*axis, 0.0]), np.array([0.0, 0.0, 1.0])
