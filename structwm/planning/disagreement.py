"""How far the members of a model disagree, as a cost: of going where predictions are not to be trusted, or with a negative weight, of not exploring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structwm.ensemble import disagreement
from structwm.transition import Trajectory

from .goals import GoalObjective, root_of, square_sum
from .named_coordinates import NamedCoordinates


class Disagreement(GoalObjective):
    """The spread of members: the root mean square distance of each point from its mean over members, averaged over points [m].

    It reads all members at once, (B, S, E, H) to (B, S), so no risk measure is applied to it; 0 for one member.

    Args:
        scales: read named coordinates rather than points; what by name, in the coordinate's unit, counts as 1. The error is then the root of the mean over
            these coordinates of variance over scale squared [-].
        periodic: names of angles [rad] that wrap at 2 pi, beside those that the scene knows to.
    """

    reads_members = True
    per_state = True

    def __init__(self, *, scales: Mapping[str, float] | None = None, periodic: Sequence[str] = (), stage: float = 1.0, terminal: float = 1.0) -> None:
        super().__init__(stage=stage, terminal=terminal)
        if scales is not None and (not scales or not all(scale > 0 for scale in scales.values()) or set(periodic) - set(scales)):
            raise ValueError(f"Disagreement needs scales above 0, and periodic names only among them, got {dict(scales)} and {tuple(periodic)}.")
        self.needs = frozenset({"points"} if scales is None else {"coordinates"})
        self.coordinates = None if scales is None else NamedCoordinates(scales, periodic)
        self.scales = torch.tensor([*(scales or {}).values()], dtype=torch.float64)

    def error(self, trajectory: Trajectory) -> Tensor:
        if not trajectory.batch_shape:
            raise ValueError("Disagreement needs a trajectory whose last batch axis is that of the members, got one without batch axes.")
        if self.coordinates is None:
            return disagreement(trajectory)
        values = self.coordinates.read(trajectory)  # (*B, E, H+1, D)
        away = self.coordinates.difference(values, values[..., :1, :, :].detach(), trajectory) / self.scales.to(values)  # angles are close to each other
        return root_of(square_sum(away - away.mean(-3, keepdim=True)).mean(-2) / len(self.scales))
