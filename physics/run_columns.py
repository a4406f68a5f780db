"""Runs of a rigid world as named columns: what CSV and NPZ files and episode stores have in common.

Names are those of the world's coordinates, with the body before: of a free or driven body `NAME.x NAME.y NAME.z` [m] and the unit quaternion
`NAME.qw NAME.qx NAME.qy NAME.qz`, if known the twist `NAME.vx NAME.vy NAME.vz` [m/s] and `NAME.wx NAME.wy NAME.wz` [rad/s], all in the world frame; of a body
on a hinge `NAME.angle` [rad], on a slide `NAME.position` [m], and if known `NAME.rate`; of an actuator its name. `time` [s] is needed; `run` tells runs apart.
Several columns may come as one: `NAME.pose` (T, 7), `NAME.twist` (T, 6), `action` (T, A) or (T - 1, A). In a world of one body its name may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.errors import BadData
from structwm.kernels.rigid_layout import JointKind

from .rigid_scene import POSE_NAMES, TWIST_NAMES
from .rigid_world import Body, RigidWorld
from .timed_runs import TimedRun

Array = NDArray[Any]
GROUPS = {"pose": POSE_NAMES, "twist": TWIST_NAMES}
LABELS = frozenset({*POSE_NAMES, *TWIST_NAMES, "angle", "position", "rate"})
UNIT_LENGTH = 0.01  # by which a quaternion's length may be off 1
BEYOND = 0.01  # of an actuator's range, by which recorded actions may exceed it


def runs_of_columns(columns: Mapping[str, Array], world: RigidWorld, *, file: str, record: str = "", names: Mapping[str, str] | None = None) -> list[TimedRun]:
    """The runs that columns (T,), or groups of columns (T, ...), hold. A column of something that is no body and no actuator is left out.

    Args:
        columns: by name.
        world: whose bodies and actuators they are.
        file: for sentences.
        record: likewise, what these columns are in the file.
        names: bodies and actuators that are called otherwise in the recording: there, to here.

    Raises:
        BadData: names file, run and column: if one is missing, of an unknown body, of another length, or holds what it cannot.
    """
    reader = _Columns(dict(columns), world, file, record, dict(names or {}))
    runs = reader.columns.pop("run", None)
    if runs is None:
        return [reader.run(slice(None), record or "the run")]
    labels = list(dict.fromkeys(runs.tolist()))
    return [reader.run(runs == label, f"run {label}") for label in labels]


class _Columns:
    """Columns (T,) of one table, by their names in the world."""

    def __init__(self, columns: dict[str, Array], world: RigidWorld, file: str, record: str, names: dict[str, str]) -> None:
        self.world, self.file, self.record = world, file, record or "every row"
        self.bodies = {body.name: body for body in world.bodies}
        self.actuators = [actuator.name for actuator in world.actuators]
        unknown = [given for given in names.values() if given not in self.bodies and given not in self.actuators]
        if unknown:
            raise ValueError(f"No body or actuator is called {unknown[0]!r}; the scene has {', '.join((*self.bodies, *self.actuators))}.")
        if "time" not in columns:
            raise self.bad("time", "a column of times [s]", f"the columns {', '.join(columns)}"[:200], "name it so")
        self.columns: dict[str, Array] = {}
        length = len(columns["time"])
        for name, values in columns.items():
            self.add(self.renamed(name, names), values, length)

    def bad(self, column: str, expected: str, got: str, advice: str, record: str | None = None) -> BadData:
        return BadData.at(file=self.file, record=record or self.record, field=column, expected=expected, got=got, advice=advice)

    def renamed(self, name: str, names: Mapping[str, str]) -> str:
        """A column's name as the world would have it."""
        body, dot, label = name.rpartition(".")
        if not dot and len(self.bodies) == 1 and (label in LABELS or label in GROUPS) and name not in self.actuators:
            return f"{next(iter(self.bodies))}.{label}"
        return f"{names.get(body, body)}.{label}" if dot else names.get(name, name)

    def add(self, name: str, values: Array, length: int) -> None:
        """Keep a column, or the columns of a group, if it is of this world."""
        body, dot, label = name.rpartition(".")
        if name in ("time", "run") or name in self.actuators:
            self.keep(name, values, length)
        elif name == "action":
            if values.ndim != 2 or values.shape[1] != len(self.actuators) or len(values) not in (length, length - 1):
                expected = f"({length}, {len(self.actuators)}) numbers, of the actuators {', '.join(self.actuators) or 'none'}"
                raise self.bad(name, expected, f"shape {values.shape}", "give one number an actuator and instant")
            filled = np.full((length, len(self.actuators)), np.nan)
            filled[: len(values)] = values
            for k, actuator in enumerate(self.actuators):
                self.keep(actuator, filled[:, k], length)
        elif dot and label in GROUPS:
            if values.ndim == 2 and values.shape[1] == len(GROUPS[label]):
                for k, part in enumerate(GROUPS[label]):
                    self.add(f"{body}.{part}", values[:, k], length)
            elif body in self.bodies:
                raise self.bad(name, f"(T, {len(GROUPS[label])}): {', '.join(GROUPS[label])}", f"shape {values.shape}", "order its numbers so")
        elif dot and body in self.bodies:
            if label not in _labels(self.bodies[body]):
                expected = f"one of {', '.join(_labels(self.bodies[body]))} of a body that is {self.bodies[body].joint.kind.name.lower()}"  # type: ignore[union-attr]
                raise self.bad(name, expected, repr(label), "rename the column, or leave it out")
            self.keep(name, values, length)
        elif dot and label in LABELS:
            raise self.bad(name, f"columns of the bodies {', '.join(self.bodies)}", f"one of {body!r}", "rename it, or leave it out")

    def keep(self, name: str, values: Array, length: int) -> None:
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if values.shape != (length,):
            raise self.bad(name, f"{length} numbers as time has", f"shape {values.shape}", "give one number an instant")
        if name in self.columns:
            raise self.bad(name, "each column once", "it twice", "leave one out")
        if name != "run":
            values = values.astype(np.float64)
            if np.isinf(values).any():
                raise self.bad(name, "finite numbers, or none where nothing was seen", f"{values[np.isinf(values)][0]}", "leave the cell empty (NaN)")
        self.columns[name] = values

    def run(self, rows: Any, record: str) -> TimedRun:
        """One run, of some rows."""
        own = {name: values[rows] for name, values in self.columns.items()}
        poses, twists, positions, rates = {}, {}, {}, {}
        for body in self.world.bodies:
            name, floats = body.name, body.joint.kind.sizes[0] == 7  # type: ignore[union-attr]
            pose = self.group(own, name, POSE_NAMES, record, needed=floats)
            twist = self.group(own, name, TWIST_NAMES, record)
            joint = "angle" if body.joint.kind is JointKind.HINGE else "position"
            if not floats and (pose is not None or f"{name}.rate" in own) and f"{name}.{joint}" not in own and body.joint.kind is not JointKind.FIXED:
                raise self.bad(f"{name}.{joint}", f"a column of the {body.joint.kind.name.lower()} beside others of {name}", "none", "add it", record)  # type: ignore[union-attr]
            if pose is not None:
                poses[name] = self.unit(pose, name, record)
            if twist is not None:
                twists[name] = twist
            if f"{name}.{joint}" in own:
                positions[name] = self.within(own[f"{name}.{joint}"], body, f"{name}.{joint}", record)
            if f"{name}.rate" in own:
                rates[name] = own[f"{name}.rate"]
        if not poses and not positions:
            raise self.bad("the bodies", f"columns of {', '.join(self.bodies)}", f"{', '.join(self.columns)}", "name them BODY.x, BODY.angle and so on", record)
        absent = [name for name in self.actuators if name not in own]
        if absent:
            raise self.bad(absent[0], f"a column of each actuator ({', '.join(self.actuators)})", "none", "add it; 0 where nothing was done", record)
        actions = np.stack([own[name] for name in self.actuators], 1) if self.actuators else np.zeros((len(own["time"]), 0))
        check_actions(self.world, actions, self.file, record)
        return TimedRun(own["time"], poses, twists, positions, rates, actions, file=self.file, record=record)

    def group(self, own: Mapping[str, Array], body: str, labels: tuple[str, ...], record: str, *, needed: bool = False) -> Array | None:
        """Columns of a body side by side; all, or none where they are not needed."""
        there = [label for label in labels if f"{body}.{label}" in own]
        if not there and not needed:
            return None
        absent = [label for label in labels if label not in there]
        if absent:
            expected = f"the columns {body}.{labels[0]} to {body}.{labels[-1]}"
            raise self.bad(f"{body}.{absent[0]}", expected, f"only {', '.join(there)}" if there else f"none of {body}", "add what is missing", record)
        return np.stack([own[f"{body}.{label}"] for label in labels], 1)

    def unit(self, pose: Array, body: str, record: str) -> Array:
        """Poses with quaternions of length one."""
        length = np.linalg.norm(pose[:, 3:], axis=1)
        off = np.abs(length - 1) > UNIT_LENGTH
        if off.any():
            k = int(np.argmax(off))
            advice = "give qw, qx, qy, qz of a unit quaternion, and NaN where nothing was seen"
            raise self.bad(f"{body}.qw to {body}.qz", "a length of 1", f"{length[k]:.4g} at instant {k}", advice, record)
        return np.c_[pose[:, :3], pose[:, 3:] / length[:, None]]

    def within(self, values: Array, body: Body, column: str, record: str) -> Array:
        """Joint positions that can be, given the joint's limits."""
        low, high = body.joint.low, body.joint.high
        beyond = np.nanmax(np.maximum(low - values, values - high), initial=0.0)
        if beyond > high - low:
            unit, other = ("rad", "degrees") if body.joint.kind is JointKind.HINGE else ("m", "millimetres")
            worst = values[int(np.nanargmax(np.maximum(low - values, values - high)))]
            raise self.bad(column, f"{low:g} to {high:g} {unit}, the joint's limits", f"{worst:g}", f"convert it if it is in {other}", record)
        return values


def check_actions(world: RigidWorld, actions: Array, file: str, record: str) -> None:
    """Refuse recorded actions (T, A) that their actuators cannot do; a twin would cut them off.

    Raises:
        BadData: names file, run and actuator.
    """
    for actuator, values in zip(world.actuators, actions.T, strict=True):
        known = values[np.isfinite(values)]
        span = BEYOND * (actuator.high - actuator.low)
        if len(known) and (known.max() > actuator.high + span or known.min() < actuator.low - span):
            worst = known[int(np.abs(known).argmax())]
            raise BadData.at(
                file=file,
                record=record,
                field=actuator.name,
                expected=f"{actuator.low:g} to {actuator.high:g} {actuator.unit or '(its bounds)'}",
                got=f"{worst:g}",
                advice="convert its unit, or widen the actuator's bounds in the scene",
            )


def _labels(body: Body) -> tuple[str, ...]:
    """What columns of a body may be called."""
    kind = body.joint.kind
    joint: tuple[str, ...] = ("angle", "rate") if kind is JointKind.HINGE else ("position", "rate") if kind is JointKind.SLIDE else ()
    return (*joint, *POSE_NAMES, *TWIST_NAMES)
