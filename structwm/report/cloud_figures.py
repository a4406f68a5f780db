"""Clouds beside the predicted surface of what deforms."""

from __future__ import annotations

import torch

from structwm.physics.cloud_measurement import CloudMeasurement
from structwm.physics.measurements import chosen_points
from structwm.transition import Trajectory

from . import figures
from .evaluation import Kind
from .style import BLUE, INK

INSTANTS = 5
MOST = 400  # points that are drawn of a surface


def draw_clouds(measurement: CloudMeasurement, trajectory: Trajectory, *, kind: Kind = "png") -> bytes:
    """The first trajectory at some instants at which points were seen: these, and the surface where it is predicted, from the side and from above.

    Args:
        measurement: clouds.
        trajectory: predictions, batch axes (N,).
        kind: of picture.
    """
    cloud = measurement.points[0].double()
    with torch.no_grad():
        surface = chosen_points(trajectory.points().positions[0].double(), measurement.among, measurement.corners, measurement.weights)
    surface = surface[:, :: -(-surface.shape[1] // MOST)]
    seen = cloud.isfinite().all(-1).any(-1)
    seen[0] = False
    instants = seen.nonzero().flatten()
    instants = instants[torch.linspace(0, len(instants) - 1, min(INSTANTS, len(instants))).round().long()]
    with figures.look():
        figure = figures.new(2.2 * len(instants) + 0.8, 4.9)
        grid = figure.subplots(2, len(instants), squeeze=False, sharex="row", sharey="row")
        for column, t in enumerate(instants.tolist()):
            for axes, (a, b) in zip(grid[:, column], ((0, 2), (0, 1)), strict=True):
                for points, color, size, label in ((surface[t], BLUE, 3.0, "predicted surface"), (cloud[t], INK, 2.0, "seen")):
                    axes.plot(points[:, a].numpy(), points[:, b].numpy(), ".", color=color, markersize=size, alpha=0.6, label=label, linewidth=0)
                axes.set_aspect("equal", adjustable="box")
                axes.tick_params(labelsize=7)
            grid[0, column].set_title(f"{float(trajectory.times[0, t]):.2f} s", fontsize=9)
        grid[0, 0].set_ylabel("z [m], over x", fontsize=8.5)
        grid[1, 0].set_ylabel("y [m], over x", fontsize=8.5)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8.5, markerscale=3)
        return figures.to_bytes(figure, kind)
