"""Episodes, their recorder and store, files of splats and point clouds, readers of recorded data, validation and fetch.

Importing needs no torch; names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.data.cloud_files import PointCloud, read_cloud, write_cloud
    from structwm.data.download import fetch
    from structwm.data.episode import Episode, Transitions, Window
    from structwm.data.errors import BadData, DataUnavailable
    from structwm.data.garden import Garden, load_garden
    from structwm.data.metadata import CameraCalibration, ControllerTiming, EpisodeMetadata
    from structwm.data.mit_push import read_mit_push
    from structwm.data.pushes import Pushes, split
    from structwm.data.recorder import EpisodeRecorder
    from structwm.data.rope_photos import RopePhotos, load_rope_photos
    from structwm.data.splat_files import read_splats, write_splats
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
    "Garden": "garden",
    "PointCloud": "cloud_files",
    "Pushes": "pushes",
    "RopePhotos": "rope_photos",
    "Transitions": "episode",
    "Window": "episode",
    "fetch": "download",
    "load_garden": "garden",
    "load_rope_photos": "rope_photos",
    "read_cloud": "cloud_files",
    "read_mit_push": "mit_push",
    "read_splats": "splat_files",
    "split": "pushes",
    "write_cloud": "cloud_files",
    "write_splats": "splat_files",
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
    "Garden",
    "PointCloud",
    "Pushes",
    "RopePhotos",
    "Transitions",
    "Window",
    "fetch",
    "load_garden",
    "load_rope_photos",
    "read_cloud",
    "read_mit_push",
    "read_splats",
    "split",
    "write_cloud",
    "write_splats",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
