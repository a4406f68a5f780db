"""Particles: the state of deformable things, and what all their scenes have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.scene import Scene
from structwm.state import Points, State, Tracks


class ParticleState(State):
    """Particles at rest or in motion, world frame."""

    positions: Tensor  # (*B, P, 3) [m]
    velocities: Tensor  # (*B, P, 3) [m/s]


def particle_state(what: str, count: int, positions: Tensor, velocities: Tensor | None) -> ParticleState:
    """A state of P = `count` particles from positions (*B, P, 3) [m] and velocities of the same shape [m/s], at rest if not given; `what` names it in errors.

    Raises:
        ValueError: on shapes that do not fit, or numbers that are not finite.
    """
    velocities = torch.zeros_like(positions) if velocities is None else velocities.to(positions)
    for label, value in (("positions", positions), ("velocities", velocities)):
        if value.shape[-2:] != (count, 3) or value.shape != positions.shape:
            raise ValueError(f"{what} needs {label} (*B, {count}, 3), got {tuple(value.shape)}.")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{what} needs finite {label}.")
    return ParticleState(positions=positions, velocities=velocities, batch_size=positions.shape[:-2])


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
