"""Recorded runs with the times of the recording, and the same at a twin's even steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from structwm.data.errors import BadData
from structwm.geometry import slerp
from structwm.kernels.rigid_layout import JointKind

from .rigid_runs import RigidRun
from .rigid_world import RigidWorld

Array = NDArray[Any]

LONGEST_GAP = 3  # steps of the twin without a recorded instant; more are refused
EVEN = 0.05  # of a step by which a recorded time may be off an even one
SLOW = 1.0  # seconds a recorded step that nobody means


@dataclass(frozen=True)
class TimedRun:
    """One run as it was recorded, at times that need not be even.

    Raises:
        BadData: if times are not finite and rising, series differ in length, or an action that is needed is missing; it names file, run and column.
    """

    times: Array  # (T,) rising [s]
    poses: Mapping[str, Array] = field(default_factory=dict)  # by body, (T, 7) [m, wxyz], NaN where not seen
    twists: Mapping[str, Array] = field(default_factory=dict)  # by body, (T, 6) [m/s, rad/s] world frame
    positions: Mapping[str, Array] = field(default_factory=dict)  # by body on a hinge or slide, (T,) [rad] or [m]
    rates: Mapping[str, Array] = field(default_factory=dict)  # by the same, (T,) a second
    actions: Array | None = None  # (T, A) in the order of the world's actuators, each held to the next instant; the last row is not used
    file: str = "memory"  # where it was read, for sentences
    record: str = "run 0"  # which run of the file

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=np.float64)
        object.__setattr__(self, "times", times)
        if times.ndim != 1 or len(times) < 2:
            raise self.bad("time", "two instants or more", f"{times.size}", "leave empty runs out")
        if not np.isfinite(times).all():
            raise self.bad("time", "finite times [s]", f"{times[~np.isfinite(times)][0]} at instant {int(np.argmin(np.isfinite(times)))}", "repair the column")
        late = np.diff(times) <= 0
        if late.any():
            k = int(np.argmax(late)) + 1
            raise self.bad(
                "time", "rising times [s]", f"{times[k]:g} s after {times[k - 1]:g} s at instant {k}", "sort the rows, or tell runs apart in a column run"
            )
        for kind in ("poses", "twists", "positions", "rates"):
            for name, values in getattr(self, kind).items():
                if len(values) != len(times):
                    raise self.bad(f"{name}, {kind}", f"{len(times)} instants as time has", f"{len(values)}", "give one row an instant")
        if self.actions is not None:
            if self.actions.ndim != 2 or len(self.actions) != len(times):
                raise self.bad(
                    "action", f"rows (T, A) for {len(times)} instants", f"shape {self.actions.shape}", "give one action an instant, the last may be NaN"
                )
            missing = ~np.isfinite(self.actions[:-1])
            if missing.any():
                row, column = (int(k) for k in np.argwhere(missing)[0])
                raise self.bad(
                    f"action {column}", "finite actions before the last instant", f"{self.actions[row, column]} at instant {row}", "cut the run there"
                )

    @property
    def name(self) -> str:
        """File and run."""
        return f"{self.file}, {self.record}"

    def bad(self, column: str, expected: str, got: str, advice: str) -> BadData:
        """The error for one column of this run."""
        return BadData.at(file=self.file, record=self.record, field=column, expected=expected, got=got, advice=advice)


def typical_step(runs: Sequence[TimedRun]) -> float:
    """Median time between instants [s], of all runs together.

    Raises:
        BadData: if it is so long that times cannot be seconds.
    """
    step = float(np.median(np.concatenate([np.diff(run.times) for run in runs])))
    if step > SLOW:
        raise runs[0].bad("time", f"seconds, with steps of {SLOW:g} s at most", f"{step:g} (median)", "divide times that are in milliseconds by 1000")
    return step


def at_steps(run: TimedRun, world: RigidWorld, dt: float) -> RigidRun:
    """A run at the even times of a twin: as recorded where these are its times, else interpolated.

    Places, twists and joints are interpolated linearly, rotations on the shorter way (slerp), never from or to an instant at which nothing was seen. Recorded
    actions hold until the next instant; a step's action is their mean over it. Hinge angles are continued without jumps of whole turns.

    Raises:
        BadData: if the run is shorter than a step, or has a gap of more than `LONGEST_GAP` steps.
    """
    hinges = {body.name for body in world.bodies if body.joint.kind is JointKind.HINGE}
    positions = {name: _unwrapped(values) if name in hinges else np.asarray(values, dtype=np.float64) for name, values in run.positions.items()}
    count = round(float(run.times[-1] - run.times[0]) / dt)
    actions = None if run.actions is None else run.actions.astype(np.float64)
    even = count == len(run.times) - 1 and bool((np.abs(run.times - run.times[0] - dt * np.arange(len(run.times))) < EVEN * dt).all())
    if even:
        return RigidRun(run.poses, run.twists, positions, run.rates, None if actions is None else actions[:-1], name=run.name)
    gaps = np.diff(run.times)
    if gaps.max() > LONGEST_GAP * dt * (1 + 1e-6):
        k = int(gaps.argmax())
        raise run.bad(
            "time",
            f"gaps of {LONGEST_GAP} steps of {dt:g} s at most",
            f"one of {gaps[k]:g} s after {run.times[k]:g} s",
            "cut the run there, or take longer steps (dt)",
        )
    count = int(np.floor((run.times[-1] - run.times[0]) / dt + 1e-6))
    if count < 1:
        raise run.bad("time", f"at least one step of {dt:g} s", f"{run.times[-1] - run.times[0]:g} s in all", "leave the run out, or take shorter steps (dt)")
    grid = run.times[0] + dt * np.arange(count + 1)
    before = np.clip(np.searchsorted(run.times, grid, side="right") - 1, 0, len(run.times) - 2)
    share = np.clip((grid - run.times[before]) / gaps[before], 0.0, 1.0)
    return RigidRun(
        {name: _poses(values, before, share) for name, values in run.poses.items()},
        {name: _between(values, before, share) for name, values in run.twists.items()},
        {name: _between(values, before, share) for name, values in positions.items()},
        {name: _between(values, before, share) for name, values in run.rates.items()},
        None if actions is None else _held(actions, run.times, grid),
        name=run.name,
    )


def _between(values: Array, before: Array, share: Array) -> Array:
    """Linear interpolation; the ends of an interval need not know each other."""
    values = np.asarray(values, dtype=np.float64)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    low, high = values[before], values[before + 1]
    return np.where(share < 1e-9, low, np.where(share > 1 - 1e-9, high, low + share * (high - low)))


def _poses(values: Array, before: Array, share: Array) -> Array:
    """Poses (T', 7) between poses (T, 7)."""
    values = np.asarray(values, dtype=np.float64)
    low, high = (torch.from_numpy(np.nan_to_num(values[k, 3:], nan=1.0)) for k in (before, before + 1))
    turned = slerp(low, high, torch.from_numpy(share)).numpy()
    place = _between(values, before, share)
    return np.where(np.isfinite(place).all(1, keepdims=True), np.c_[place[:, :3], turned], np.nan)


def _held(actions: Array, times: Array, grid: Array) -> Array:
    """Means (T' - 1, A) over the grid's steps of actions (T, A) that are held."""
    total = np.concatenate([np.zeros((1, actions.shape[1])), np.cumsum(actions[:-1] * np.diff(times)[:, None], 0)])
    sums = np.stack([np.interp(grid, times, column) for column in total.T], 1) if actions.shape[1] else np.zeros((len(grid), 0))
    means: Array = np.diff(sums, axis=0) / np.diff(grid)[:, None]
    return means


def _unwrapped(values: Array) -> Array:
    """Angles (T,) without jumps of whole turns, NaN left as they are."""
    out = np.array(values, dtype=np.float64)
    seen = np.isfinite(out)
    out[seen] = np.unwrap(out[seen])
    return out
