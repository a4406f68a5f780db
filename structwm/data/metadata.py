"""What an episode's numbers mean: units, frames, embodiment, cameras, timing and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CameraCalibration:
    """A pinhole camera: intrinsics (3, 3) [px], `world_from_camera` (4, 4) [m] (camera axes x right, y down, z forward) and the image size [px]."""

    intrinsics: Sequence[Sequence[float]]
    world_from_camera: Sequence[Sequence[float]]
    width: int
    height: int

    def __post_init__(self) -> None:
        for name, side in (("intrinsics", 3), ("world_from_camera", 4)):
            rows = tuple(tuple(float(value) for value in row) for row in getattr(self, name))
            if len(rows) != side or any(len(row) != side for row in rows):
                raise ValueError(f"camera {name}: expected a matrix ({side}, {side}), got {len(rows)} rows of lengths {[len(row) for row in rows]}.")
            object.__setattr__(self, name, rows)


@dataclass(frozen=True)
class ControllerTiming:
    """How actions were executed: the period between two actions [s], and the time from an observation to the effect of the action chosen for it [s]."""

    period: float
    latency: float = 0.0


@dataclass(frozen=True)
class EpisodeMetadata:
    """The meaning of an episode's fields.

    Fields are named `action`, `reward`, `discount`, `time` and `observation/KEY`.
    """

    units: Mapping[str, str] = field(default_factory=dict)  # per field, SI unless said, one for the whole row ("m") or one a column ("m, m, rad")
    frames: Mapping[str, str] = field(default_factory=dict)  # per field, the frame its numbers are expressed in ("world", "object_from_tip")
    embodiment: str | None = None  # the robot or tool that acts
    cameras: Mapping[str, CameraCalibration] = field(default_factory=dict)
    timing: ControllerTiming | None = None
    source: str | None = None  # where it was recorded: a data set and file, or an engine and its version
    may_be_nan: tuple[str, ...] = ()  # fields in which NaN means "not measured"; elsewhere NaN is an error

    def __post_init__(self) -> None:
        for name in ("units", "frames", "cameras"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        object.__setattr__(self, "may_be_nan", tuple(self.may_be_nan))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EpisodeMetadata:
        """The inverse of `to_json`."""
        content = dict(value)
        content["cameras"] = {name: CameraCalibration(**camera) for name, camera in content.get("cameras", {}).items()}
        timing = content.get("timing")
        content["timing"] = None if timing is None else ControllerTiming(**timing)
        return cls(**content)
