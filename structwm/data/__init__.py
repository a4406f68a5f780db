"""Episodes, their recorder and store, readers of recorded data, validation and fetch. Needs no torch; names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.data.download import fetch
    from structwm.data.episode import Episode, Transitions, Window
    from structwm.data.errors import BadData, DataUnavailable
    from structwm.data.metadata import CameraCalibration, ControllerTiming, EpisodeMetadata
    from structwm.data.mit_push import read_mit_push
    from structwm.data.pushes import Pushes, split
    from structwm.data.recorder import EpisodeRecorder
    from structwm.data.store import EpisodeSet, EpisodeWriter

_HOME = {
    "BadData": "errors",
    "CameraCalibration": "metadata",
    "ControllerTiming": "metadata",
    "DataUnavailable": "errors",
    "Episode": "episode",
    "EpisodeMetadata": "metadata",
    "EpisodeRecorder": "recorder",
    "EpisodeSet": "store",
    "EpisodeWriter": "store",
    "Pushes": "pushes",
    "Transitions": "episode",
    "Window": "episode",
    "fetch": "download",
    "read_mit_push": "mit_push",
    "split": "pushes",
}

__all__ = [
    "BadData",
    "CameraCalibration",
    "ControllerTiming",
    "DataUnavailable",
    "Episode",
    "EpisodeMetadata",
    "EpisodeRecorder",
    "EpisodeSet",
    "EpisodeWriter",
    "Pushes",
    "Transitions",
    "Window",
    "fetch",
    "read_mit_push",
    "split",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
