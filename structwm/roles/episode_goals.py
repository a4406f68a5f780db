"""Goals of episodes: values of named coordinates that are drawn at every reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Objective
from structwm.noise import Noise
from structwm.planning import CoordinateGoal
from structwm.scene import Scene


def draw_rows(noise: Noise, count: int) -> Tensor:
    """One of `count` rows for each of the noise's problems, int64 (n,)."""
    return (noise.uniform((len(noise.seeds), 1))[:, 0] * count).long().clamp_max(count - 1)


class Goals:
    """Where episodes are to end.

    Args:
        names: of the G coordinates that count.
        values: a pool (M, G) of which one is drawn, or a function of noise for n episodes to (n, G), in the coordinates' units.
        tolerance: how near is reached, one number or G, in those units.

    Raises:
        ValueError: on shapes that do not fit or a tolerance that is not above zero.
    """

    def __init__(self, names: Sequence[str], values: Tensor | Callable[[Noise], Tensor], *, tolerance: float | Sequence[float]) -> None:
        self.names, self.values = tuple(names), values
        self.tolerance = torch.as_tensor(tolerance, dtype=torch.float32).expand(len(self.names))
        if isinstance(values, Tensor) and (values.ndim != 2 or values.shape[1] != len(self.names) or not len(values)):
            raise ValueError(f"Goals of {', '.join(self.names)} need a pool (M, {len(self.names)}), got shape {tuple(values.shape)}.")
        if not bool((self.tolerance > 0).all()):
            raise ValueError(f"Goals need tolerances above zero, got {self.tolerance.tolist()}.")

    def draw(self, noise: Noise) -> Tensor:
        """Goals (n, G) of n episodes."""
        return self.values[draw_rows(noise, len(self.values))] if isinstance(self.values, Tensor) else self.values(noise)

    def reached(self, scene: Scene, state: Any, goal: Tensor) -> Tensor:
        """Which states (n,) are within the tolerances of goals (n, G), bool (n,)."""
        return (coordinate_errors(scene, state, self.names, goal).abs() <= self.tolerance.to(goal)).all(-1)

    def objective(self, goal: Tensor) -> Objective:
        """The distance to goals (n, G) in tolerances."""
        weights = {name: 1.0 / float(reach) ** 2 for name, reach in zip(self.names, self.tolerance, strict=True)}
        return CoordinateGoal(dict(zip(self.names, goal.unbind(-1), strict=True)), weights=weights, root=True, stage=0.0)


def coordinate_errors(scene: Scene, state: Any, names: Sequence[str], goal: Tensor) -> Tensor:
    """Named coordinates of states (*B) minus goals (*B, G), angles within (-pi, pi].

    Raises:
        ValueError: on a name that the scene does not have.
    """
    known = scene.coordinate_names(state)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"There is no coordinate {unknown[0]!r}; this scene has {', '.join(known)}.")
    error = scene.coordinates(state)[..., [known.index(name) for name in names]] - goal
    angle = torch.tensor([name in scene.periodic for name in names], device=error.device)
    return torch.where(angle, error - 2 * torch.pi * (error / (2 * torch.pi)).round(), error)
