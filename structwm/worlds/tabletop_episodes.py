"""Recorded motions of bodies on a table: points, poses and the pusher, ragged clouds padded, in one file without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from structwm.data.errors import BadData, DataUnavailable

from .tabletop_config import CylinderPusher, SpherePusher, TabletopConfig

MOVED = 5e-4  # by which a point must move in a step to count as moving [m]


@dataclass(frozen=True)
class SoftPush:
    """A block of compressible Neo-Hookean tetrahedra on the ground and a pusher. SI units."""

    size: tuple[float, float, float]  # of the block [m]
    cells: tuple[int, int, int]  # of its mesh
    mass: float  # [kg]
    young: float  # stiffness in tension [Pa]
    friction: float  # on the ground and the pusher
    pusher: CylinderPusher | SpherePusher  # a cylinder is a capsule of this radius and half length of its segment
    damping: float = 3e-3  # viscosity over stiffness [s]
    poisson: float = 0.3
    dt: float = 0.1  # control period [s]
    workspace: float = 0.3  # half-size of the square to which the pusher is clipped [m]

    def to_json(self) -> str:
        """The configuration as one line of JSON; `from_json` reads it."""
        return json.dumps({**asdict(self), "soft": True, "pusher": [type(self.pusher).__name__, asdict(self.pusher)]}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SoftPush:
        """What `to_json` wrote."""
        content = json.loads(text)
        del content["soft"]
        name, values = content["pusher"]
        content["pusher"] = {"CylinderPusher": CylinderPusher, "SpherePusher": SpherePusher}[name](**values)
        return cls(**{**content, "size": tuple(content["size"]), "cells": tuple(content["cells"])})


@dataclass(frozen=True, eq=False)
class TabletopEpisodes:
    """R episodes of T frames, `dt` apart. World frame, float32 and int64. What is padded is 0 where it is a position, the identity where it is a pose, and -1
    where it is an id."""

    positions: Tensor  # (R, T, N, 3) of material points [m]
    mask: Tensor  # bool (R, N), True for points that are there
    object_ids: Tensor  # int64 (R, N)
    body_ids: Tensor  # int64 (R, N), links counted; 0 for all points of a soft body
    poses: Tensor  # (R, T, K, 7) of the rigid bodies [m, wxyz]
    body_objects: Tensor  # int64 (R, K) the object of each body
    pusher: Tensor  # (R, T, P): x, y, z [m], for plates yaw [rad]
    actions: Tensor  # (R, T - 1, A): vx, vy [m/s], for plates yaw rate [rad/s]
    dt: float  # [s]
    configs: tuple[TabletopConfig | SoftPush, ...]  # R of them

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: slice) -> TabletopEpisodes:
        """Some of the episodes."""
        return TabletopEpisodes(**{name: getattr(self, name)[index] for name in _TENSORS}, dt=self.dt, configs=self.configs[index])

    @property
    def moving(self) -> Tensor:
        """Whether a point moves by more than half a millimetre in a step, bool (R, T - 1)."""
        return (self.positions.diff(dim=1).norm(dim=-1) > MOVED).any(-1)

    @classmethod
    def join(cls, parts: Sequence[TabletopEpisodes]) -> TabletopEpisodes:
        """One after the other, padded to the most points and bodies; pushers without a yaw get one of 0.

        Raises:
            ValueError: if there are none, or their lengths or periods differ.
        """
        if not parts or len({(part.positions.shape[1], part.dt) for part in parts}) != 1:
            raise ValueError(f"join needs episodes of one length and period, got {sorted({(part.positions.shape[1], part.dt) for part in parts})}.")
        tensors = {}
        for name, (axes, filling) in _TENSORS.items():
            values = [getattr(part, name) for part in parts]
            for axis in axes:
                size = max(value.shape[axis] for value in values)
                values = [_padded(value, axis, size, filling) for value in values]
            tensors[name] = torch.cat(values)
        return cls(**tensors, dt=parts[0].dt, configs=tuple(config for part in parts for config in part.configs))

    def save(self, path: str | Path) -> None:
        """Write to an npz file; its folder is made."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name).numpy() for name in _TENSORS}
        arrays["dt"], arrays["configs"] = np.array(self.dt), np.array([config.to_json() for config in self.configs])
        part = file.with_name(file.name + ".part.npz")
        np.savez_compressed(part, **arrays)
        part.replace(file)

    @classmethod
    def load(cls, path: str | Path) -> TabletopEpisodes:
        """Read what `save` wrote.

        Raises:
            DataUnavailable: if the file is not there.
            BadData: if it is not such a recording.
        """
        file = Path(path)
        if not file.is_file():
            raise DataUnavailable(f"expected a recording at {file}, found none; record it again.")
        try:
            with np.load(file, allow_pickle=False) as content:
                tensors = {name: torch.from_numpy(content[name]) for name in _TENSORS}
                texts = content["configs"].tolist()
                configs = tuple(SoftPush.from_json(text) if "soft" in json.loads(text) else TabletopConfig.from_json(text) for text in texts)
                return cls(**tensors, dt=float(content["dt"]), configs=configs)
        except Exception as error:  # damaged and foreign files fail in many ways
            raise BadData.at(
                file=file,
                record="the recording",
                field="arrays",
                expected="what TabletopEpisodes.save wrote",
                got=type(error).__name__,
                advice="record it again",
            ) from error


_IDENTITY = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
_TENSORS: dict[str, tuple[tuple[int, ...], float | tuple[float, ...]]] = {  # axes that may be ragged, and what they are padded with
    "positions": ((2,), 0.0),
    "mask": ((1,), 0),
    "object_ids": ((1,), -1),
    "body_ids": ((1,), -1),
    "poses": ((2,), _IDENTITY),
    "body_objects": ((1,), -1),
    "pusher": ((2,), 0.0),
    "actions": ((2,), 0.0),
}


def _padded(value: Tensor, axis: int, size: int, filling: float | tuple[float, ...]) -> Tensor:
    shape = list(value.shape)
    shape[axis] = size - shape[axis]
    return torch.cat((value, torch.as_tensor(filling, dtype=value.dtype).expand(shape)), axis) if shape[axis] else value
