"""Coordinates by name: where they lie in the view, and differences that take angles the short way round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from structwm.transition import Trajectory


class NamedCoordinates:
    """Reads some coordinates of trajectories, all at once.

    Args:
        names: of the coordinates.
        periodic: names of angles [rad] that wrap at 2 pi, beside those that the scene knows to.
    """

    def __init__(self, names: Iterable[str], periodic: Iterable[str] = ()) -> None:
        self.names, self.periodic = tuple(names), frozenset(periodic)

    def read(self, trajectory: Trajectory) -> Tensor:
        """The coordinates (*B, H+1, D) in the order of the names; a view where they lie evenly.

        Raises:
            ValueError: if the scene has no coordinate of a name.
        """
        known = trajectory.scene.coordinate_names(trajectory.states)
        for name in self.names:
            if name not in known:
                raise ValueError(f"There is no coordinate {name!r}; this scene has {', '.join(known)}.")
        places = [known.index(name) for name in self.names]
        values = trajectory.coordinates()
        even = _even(places)
        return values.index_select(-1, torch.tensor(places, device=values.device)) if even is None else values[..., even]

    def difference(self, values: Tensor, target: Tensor, trajectory: Trajectory) -> Tensor:
        """`values` (*B, T, D), as `read` gives them, minus a target that broadcasts against them; angles within [-pi, pi]. A new tensor."""
        away = values - target
        wraps = [place for place, name in enumerate(self.names) if name in self.periodic or name in trajectory.scene.periodic]
        if wraps:
            even = _even(wraps)
            for part in wraps if even is None else (even,):
                angle = away[..., part]
                away[..., part] = angle - (angle / (2 * math.pi)).round() * (2 * math.pi)
        return away


def _even(places: Sequence[int]) -> slice | None:
    """Places as a slice, if they ascend by equal steps."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if step < 1 or list(places) != list(range(places[0], places[-1] + 1, step)):
        return None
    return slice(places[0], places[-1] + 1, step)
