"""Straight pushes of one slider on one surface, wherever they were recorded: on a robot, in PyBullet or in MuJoCo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structwm.data.episode import Episode
from structwm.data.metadata import EpisodeMetadata
from structwm.data.validate import COLUMNS, check_pushes, tip_gap
from structwm.geometry.outline import convex_outline

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pushes:
    """n straight pushes by a round tip. Poses are x, y [m] and yaw [rad] of the slider's frame, tips the centre of the tip [m], all in one world frame.

    The initial yaw is brought into (-pi, pi]; final yaws, measured and published, within pi of the initial one, so that a plain difference is the turn.

    Raises:
        BadData: if a field cannot be right (`structwm.data.validate`).
        ValueError: if the outline is not a convex polygon, counter-clockwise.
    """

    surface: str
    shape: str
    outline: Array  # (V, 2) [m], slider frame, convex, counter-clockwise; an ellipse as a fine polygon
    tip_radius: float  # [m]
    init_pose: Array  # (n, 3) before the push
    final_pose: Array  # (n, 3) after it, at rest
    init_tip: Array  # (n, 2)
    final_tip: Array  # (n, 2)
    semi_axes: tuple[float, float] | None = None  # of an ellipse, along x and y [m]
    published: Mapping[str, Array] = field(default_factory=dict)  # final poses (n, 3) that others' models predicted, by model
    tip_speed: float | None = None  # [m/s], where known
    source: str = "memory"

    def __post_init__(self) -> None:
        arrays = {name: np.array(getattr(self, name), dtype=np.float64) for name in COLUMNS}
        arrays |= {name: np.array(values, dtype=np.float64) for name, values in self.published.items()}
        outline = convex_outline(self.outline)
        check_pushes(arrays, outline=outline, tip_radius=self.tip_radius, file=self.source)
        init = arrays["init_pose"]
        init[:, 2] = _near(init[:, 2], 0.0)
        for name in ("final_pose", *self.published):
            arrays[name][:, 2] = _near(arrays[name][:, 2], init[:, 2])
        for values in (outline, *arrays.values()):
            values.setflags(write=False)
        for name in COLUMNS:
            object.__setattr__(self, name, arrays[name])
        object.__setattr__(self, "outline", outline)
        object.__setattr__(self, "published", {name: arrays[name] for name in self.published})

    @property
    def name(self) -> str:
        """Surface and shape, as in `abs/rect1`."""
        return f"{self.surface}/{self.shape}"

    def __len__(self) -> int:
        return len(self.init_pose)

    def __getitem__(self, index: ArrayLike | slice) -> Pushes:
        """The pushes at indices (m,), where a mask (n,) is true, or in a slice; m > 0."""
        at = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        return replace(self, **{name: getattr(self, name)[at] for name in COLUMNS}, published={name: values[at] for name, values in self.published.items()})

    @cached_property
    def start_gap(self) -> Array:
        """Way between the surfaces of tip and slider before the push [m], (n,); negative where the recorded outlines overlap."""
        return tip_gap(self.init_pose, self.init_tip, self.outline, self.tip_radius)

    def suspect(self, *, tolerance: float = 0.005) -> Array:
        """Which records start with the tip farther off (or deeper in) than the tolerance [m], bool (n,): measurement faults where pushes start at contact."""
        return np.abs(self.start_gap) > tolerance

    def errors(self, predicted: ArrayLike) -> tuple[Array, Array]:
        """Distance [m] and absolute wrapped yaw difference [rad] of predicted final poses (..., n, 3) to the measured ones, each (..., n)."""
        difference = np.asarray(predicted) - self.final_pose
        return np.linalg.norm(difference[..., :2], axis=-1), np.abs(_near(difference[..., 2], 0.0))

    def to_episodes(self, *, tip_speed: float | None = None) -> list[Episode]:
        """Each push as an episode of two steps: observations `slider_pose` and `tip_position`, and between them the action, the tip's displacement (2,) [m].

        Args:
            tip_speed: [m/s], where the pushes do not know theirs; it sets the episode's time.

        Raises:
            ValueError: if neither knows the speed.
        """
        speed = tip_speed or self.tip_speed
        if not speed:
            raise ValueError(f"expected the tip's speed of {self.name} to time its episodes, got none; give tip_speed [m/s].")
        metadata = EpisodeMetadata(
            units={"observation/slider_pose": "m, m, rad", "observation/tip_position": "m", "action": "m", "time": "s"},
            frames={"observation/slider_pose": "world", "observation/tip_position": "world", "action": "world"},
            embodiment=f"round tip of radius {self.tip_radius:g} m pushing {self.shape} on {self.surface}",
            source=self.source,
        )
        travel = self.final_tip - self.init_tip
        duration = np.linalg.norm(travel, axis=1) / speed
        return [
            Episode.from_steps(
                {"slider_pose": np.stack([self.init_pose[i], self.final_pose[i]]), "tip_position": np.stack([self.init_tip[i], self.final_tip[i]])},
                travel[i : i + 1],
                time=np.array([0.0, duration[i]]),
                metadata=metadata,
                name=f"{self.name}/{i}",
            )
            for i in range(len(self))
        ]


def split(count: int | Pushes, *, fraction: float = 0.2, seed: int = 0) -> tuple[Array, Array]:
    """Indices that calibrate and indices that test: the first `round(fraction * n)` of `numpy.random.default_rng(seed).permutation(n)`, and the rest."""
    n = count if isinstance(count, int) else len(count)
    order = np.random.default_rng(seed).permutation(n)
    few = round(fraction * n)
    return order[:few], order[few:]


def _near(yaw: Array, reference: Array | float) -> Array:
    """The same angle within pi of the reference; exact where it already is."""
    return yaw - 2 * np.pi * np.round((yaw - reference) / (2 * np.pi))
