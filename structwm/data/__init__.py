"""Episodes, their recorder and store, files of splats and point clouds, readers of recorded data, validation and fetch.

Importing needs no torch; names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.data.cloud_files import PointCloud, read_cloud, write_cloud
    from structwm.data.cmu_push import LoggedPush, PushLog, read_cmu_push
    from structwm.data.cube_tosses import Toss, read_cube_tosses, toss_split
    from structwm.data.double_pendulum import JointRun, read_double_pendulum, read_identified_parameters
    from structwm.data.download import fetch
    from structwm.data.episode import Episode, Transitions, Window
    from structwm.data.errors import BadData, DataUnavailable
    from structwm.data.garden import Garden, load_garden
    from structwm.data.metadata import CameraCalibration, ControllerTiming, EpisodeMetadata
    from structwm.data.mit_push import read_mit_push
    from structwm.data.posed_images import PosedImages, read_posed_images, write_posed_images
    from structwm.data.push_t_images import PushTImages, load_push_t
    from structwm.data.pushes import Pushes, split
    from structwm.data.recorder import EpisodeRecorder
    from structwm.data.rope_motion import RopeMotion, convert_rope_motion, read_rope_motion
    from structwm.data.rope_photos import RopePhotos, load_rope_photos
    from structwm.data.splat_files import read_splats, write_splats
    from structwm.data.store import EpisodeSet, EpisodeWriter

_HOME = {
    "PosedImages": "posed_images",
    "read_posed_images": "posed_images",
    "write_posed_images": "posed_images",
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
    "JointRun": "double_pendulum",
    "LoggedPush": "cmu_push",
    "PointCloud": "cloud_files",
    "PushLog": "cmu_push",
    "PushTImages": "push_t_images",
    "Pushes": "pushes",
    "RopeMotion": "rope_motion",
    "RopePhotos": "rope_photos",
    "Toss": "cube_tosses",
    "Transitions": "episode",
    "Window": "episode",
    "convert_rope_motion": "rope_motion",
    "fetch": "download",
    "load_garden": "garden",
    "load_push_t": "push_t_images",
    "load_rope_photos": "rope_photos",
    "read_cloud": "cloud_files",
    "read_cmu_push": "cmu_push",
    "read_cube_tosses": "cube_tosses",
    "read_double_pendulum": "double_pendulum",
    "read_identified_parameters": "double_pendulum",
    "read_mit_push": "mit_push",
    "read_rope_motion": "rope_motion",
    "read_splats": "splat_files",
    "split": "pushes",
    "toss_split": "cube_tosses",
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
    "JointRun",
    "LoggedPush",
    "PointCloud",
    "PosedImages",
    "PushLog",
    "PushTImages",
    "Pushes",
    "RopeMotion",
    "RopePhotos",
    "Toss",
    "Transitions",
    "Window",
    "convert_rope_motion",
    "fetch",
    "load_garden",
    "load_push_t",
    "load_rope_photos",
    "read_cloud",
    "read_cmu_push",
    "read_cube_tosses",
    "read_double_pendulum",
    "read_identified_parameters",
    "read_mit_push",
    "read_posed_images",
    "read_rope_motion",
    "read_splats",
    "split",
    "toss_split",
    "write_cloud",
    "write_posed_images",
    "write_splats",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
