"""Recorded motion of rigid bodies as what a twin is calibrated on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.kernels.rigid_layout import JointKind

from .measurements import Measurement, PoseMeasurement
from .recording import Recording
from .rigid_checks import MOVED, check_rates, check_units
from .rigid_parameters import extent
from .rigid_scene import RigidState
from .world_twin import WorldTwin


@dataclass(frozen=True)
class RigidRun:
    """One run: what was seen of bodies and joints, at even times, and what was done. Arrays or tensors.

    Bodies that are not named start at rest where the world puts them.
    """

    poses: Mapping[str, Any] = field(default_factory=dict)  # by body, (T, 7) [m, wxyz], NaN where not seen; the first must be
    twists: Mapping[str, Any] = field(default_factory=dict)  # by body, (T, 6) [m/s, rad/s] world frame; of bodies without, the first two poses tell the first
    positions: Mapping[str, Any] = field(default_factory=dict)  # by body on a hinge or slide, (T,) [rad] or [m]
    rates: Mapping[str, Any] = field(default_factory=dict)  # by the same, (T,) a second
    actions: Any = None  # (T - 1, A), held from an instant to the next
    name: str = ""


def rigid_recording(
    twin: WorldTwin,
    runs: Sequence[RigidRun],
    *,
    scale: tuple[float, float] | None = None,
    measurements: Sequence[Measurement] = (),
    start_spread: Mapping[str, float] | None = None,
    windows: tuple[int, int] | None = None,
) -> Recording[RigidState]:
    """Runs at the twin's time step as a `Recording`, padded to the longest.

    Args:
        twin: whose world was recorded.
        runs: what was recorded.
        scale: size of an error of position [m] and rotation [rad] that matters; default a twentieth of the smallest body, and a twentieth of a radian.
        measurements: further ones, of as many trajectories and steps.
        start_spread: how far off start states may be, by the twin's displacements; fits them along.
        windows: multiple shooting: steps of a window, and steps from one window's start to the next. Every window starts from what was recorded there, so the
            runs need twists, or rates, at all instants. Default: each run is one trajectory.

    Raises:
        ValueError: on an empty run, unknown bodies, actions that do not fit, numbers in contradictory units, or bodies that start inside each other.
    """
    if not runs:
        raise ValueError("rigid_recording needs at least one run, got none.")
    assert twin.spec.dt is not None
    cut = [part for k, run in enumerate(runs) for part in _pieces(twin, run, k, windows)]
    horizon = max(len(piece.actions) for piece in cut)
    starts: Any = [piece.start for piece in cut]
    states = cast(RigidState, torch.stack(starts, 0))
    twin.check_start(states)
    seen = [name for name in twin.scene.body_names if any(name in run.poses for run in runs) and name not in twin.driven()]
    joints = [name for name in twin.scene.body_names if any(name in run.positions for run in runs)]
    sizes = [extent(body) for body in twin.world.bodies if body.name in seen]
    place, turn = scale or (min(sizes, default=0.1) / 20, 0.05)
    found: list[Measurement] = []
    if seen:
        poses = torch.stack([torch.stack([_padded(piece.poses.get(name), piece.length, horizon + 1, 7) for name in seen], 1) for piece in cut])
        found.append(PoseMeasurement(poses, tuple(seen), place, turn))
    angles = {name: f"{name}.angle" if twin.world.body(name).joint.kind is JointKind.HINGE else f"{name}.position" for name in joints}
    observed = {label: torch.stack([_padded(piece.positions.get(name), piece.length, horizon + 1, 0) for piece in cut]) for name, label in angles.items()}
    return Recording(
        state=states,
        actions=torch.stack([torch.cat((piece.actions, piece.actions.new_zeros(horizon - len(piece.actions), piece.actions.shape[1]))) for piece in cut]),
        observed=observed,
        scale={label: turn if label.endswith("angle") else place for label in observed},
        periodic=frozenset(label for label in observed if label.endswith("angle")),
        measurements=(*found, *measurements),
        start_spread=dict(start_spread or {}),
        origin=torch.tensor([piece.run for piece in cut]),
    )


@dataclass(frozen=True)
class _Piece:
    run: int
    length: int  # instants
    start: RigidState
    actions: Tensor
    poses: Mapping[str, Tensor]
    positions: Mapping[str, Tensor]


def _pieces(twin: WorldTwin, run: RigidRun, number: int, windows: tuple[int, int] | None) -> list[_Piece]:
    """A run, or windows of it."""
    label = run.name or f"run {number}"
    parts = {kind: {name: _tensor(value) for name, value in getattr(run, kind).items()} for kind in ("poses", "twists", "positions", "rates")}
    lengths = {len(value) for group in parts.values() for value in group.values()}
    if not lengths or max(lengths) < 2:
        raise ValueError(f"{label} is empty: it needs at least two instants of one body.")
    if len(lengths) > 1:
        raise ValueError(f"{label} holds series of different lengths: {', '.join(map(str, sorted(lengths)))} instants.")
    length = lengths.pop()
    size = twin.spec.action.size
    actions = torch.zeros(length - 1, size, dtype=torch.float64) if run.actions is None else _tensor(run.actions)
    if tuple(actions.shape) != (length - 1, size):
        raise ValueError(f"{label} needs actions (T - 1, A) = {(length - 1, size)}, got {tuple(actions.shape)}.")
    times = torch.arange(length, dtype=torch.float64) * float(twin.spec.dt or 0.0)
    for kind in ("poses", "twists"):
        for name in parts[kind]:
            if name not in twin.scene.body_names:
                raise ValueError(f"{label} has {kind} of {name!r}, which is no body; there are {', '.join(twin.scene.body_names)}.")
    for name, poses in parts["poses"].items():
        if poses.shape[1:] != (7,) or not bool(poses[0].isfinite().all()):
            raise ValueError(f"{label} needs poses (T, 7) of {name!r} with a finite first one, got {tuple(poses.shape)}.")
        known = poses.isfinite().all(-1)
        size_of = extent(twin.world.body(name)) or 0.1
        if name in parts["twists"]:
            check_units(f"{label}, {name}", poses[known], parts["twists"][name][known], times[known], size_of)
        else:
            check_units(f"{label}, {name}", poses[known], torch.full((int(known.sum()), 6), math.nan, dtype=torch.float64), times[known], size_of)
            parts["twists"][name] = _differences(poses, times)
    jointed = [body.name for body in twin.world.bodies if body.joint.kind.sizes[0] == 1]  # type: ignore[union-attr]
    for name, positions in parts["positions"].items():
        if name not in jointed:
            raise ValueError(f"{label} has positions of {name!r}, which is on no hinge or slide; there are {', '.join(jointed) or 'none'}.")
        turns = twin.world.body(name).joint.kind is JointKind.HINGE
        moves = wrap_angle(positions.diff()) if turns else positions.diff()  # angles may jump by whole turns
        if name not in parts["rates"]:
            rates = moves / times.diff()
            parts["rates"][name] = torch.cat((rates, rates[-1:]))
        else:
            unit, hint = ("rad/s", "degrees") if turns else ("m/s", "millimetres")
            rates, floor = parts["rates"][name].unsqueeze(-1), MOVED * (1.0 if turns else extent(twin.world.body(name)) or 0.1)
            check_rates(f"{label}, {name}: states a mean rate", unit, hint, moves.unsqueeze(-1), rates, times.diff(), floor)
    starts = [0] if windows is None else list(range(0, max(length - windows[0], 1), windows[1]))
    ends = [length if windows is None else min(start + windows[0] + 1, length) for start in starts]
    floating = [body.name for body in twin.world.bodies if body.joint.kind.sizes[0] == 7]  # type: ignore[union-attr]
    pieces = []
    for start, end in zip(starts, ends, strict=True):
        state = twin.state(
            {name: value[start] for name, value in parts["poses"].items() if name in floating},
            {name: value[start] for name, value in parts["twists"].items() if name in floating},
            positions={name: value[start] for name, value in parts["positions"].items()},
            rates={name: value[start] for name, value in parts["rates"].items()},
            dtype=torch.float64,
        )
        if not bool(state.configuration.isfinite().all()) or not bool(state.velocity.isfinite().all()):
            if windows is None:
                raise ValueError(f"{label} has a start that is not finite.")
            continue
        window = slice(start, end)
        pieces.append(
            _Piece(
                number,
                end - start,
                state,
                actions[start : end - 1],
                {name: value[window] for name, value in parts["poses"].items()},
                {name: value[window] for name, value in parts["positions"].items()},
            )
        )
    return pieces


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().clone().double() if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)


def _padded(values: Tensor | None, length: int, wanted: int, width: int) -> Tensor:
    """Values with NaN behind their end, or all NaN."""
    shape = (wanted, width) if width else (wanted,)
    full = torch.full(shape, math.nan, dtype=torch.float64)
    if values is not None:
        full[:length] = values
    return full


def _differences(poses: Tensor, times: Tensor) -> Tensor:
    """Twists (T, 6) of poses (T, 7) from each to the next."""
    from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector

    step = times.diff().unsqueeze(-1)
    turn = quaternion_to_rotation_vector(quaternion_multiply(poses[1:, 3:], quaternion_conjugate(poses[:-1, 3:])))
    twists = torch.cat((poses[:, :3].diff(dim=0), turn), -1) / step
    return torch.cat((twists, twists[-1:]))
