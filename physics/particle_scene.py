"""Particles: the state of deformable things, and what all their scenes have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.scene import Scene
from structwm.state import Points, State, Tracks


class SpringState(State):
    """Particles at rest or in motion, world frame, controllers last."""

    positions: Tensor  # (*B, P, 3) [m]
    velocities: Tensor  # (*B, P, 3) [m/s]


class ParticleScene(Scene):
    """Reads the state of P particles, a state with `positions` and `velocities`: the first of them are points and tracks; coordinates are `p3.x` [m] and
    `p3.vx` [m/s] of all.

    Args:
        count: P.
        seen: how many are points; all if not given.
        letter: what names begin with.
        extra: names and units of coordinates that the state has beside.
    """

    def __init__(self, count: int, *, seen: int | None = None, letter: str = "p", extra: tuple[tuple[str, str], ...] = ()) -> None:
        names = [f"{letter}{k}.{kind}{axis}" for kind in ("", "v") for k in range(count) for axis in "xyz"]
        units = ["m"] * 3 * count + ["m/s"] * 3 * count
        self.seen = count if seen is None else seen
        super().__init__(
            coordinate_names=names + [name for name, _ in extra],
            coordinate_units=units + [unit for _, unit in extra],
            point_names=[f"{letter}{k}" for k in range(self.seen)],
        )

    def points(self, state: Any) -> Points:
        """The particles that are seen."""
        return Points(positions=state.positions[..., : self.seen, :], batch_size=state.batch_size)

    def tracks(self, state: Any) -> Tracks:
        """The same in the world frame, all visible."""
        positions = state.positions[..., : self.seen, :]
        return Tracks(keypoints=positions, visibility=torch.ones_like(positions[..., 0]), batch_size=state.batch_size)
