"""Splats that move with a model's points, so that any model with a points view is seen as a scene of Gaussian splats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.splats.driven import DrivenScene, DrivenSplats
    from structwm.splats.dynamics import SplatDynamics
    from structwm.splats.first_frame import TableScene, table_scene
    from structwm.splats.photometric import FilmedScene, PhotometricLoss, filmed
    from structwm.splats.splat_scene import ROBOT, STATIC, SplatScene, render_states

_HOME = {
    "DrivenScene": "driven",
    "DrivenSplats": "driven",
    "FilmedScene": "photometric",
    "PhotometricLoss": "photometric",
    "ROBOT": "splat_scene",
    "STATIC": "splat_scene",
    "SplatDynamics": "dynamics",
    "SplatScene": "splat_scene",
    "TableScene": "first_frame",
    "filmed": "photometric",
    "render_states": "splat_scene",
    "table_scene": "first_frame",
}

__all__ = [
    "ROBOT",
    "STATIC",
    "DrivenScene",
    "DrivenSplats",
    "FilmedScene",
    "PhotometricLoss",
    "SplatDynamics",
    "SplatScene",
    "TableScene",
    "filmed",
    "render_states",
    "table_scene",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
