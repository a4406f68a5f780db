"""Splats that move with a model's points, so that any model with a points view is seen as a scene of Gaussian splats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.splats.driven import DrivenScene, DrivenSplats

_HOME = {"DrivenScene": "driven", "DrivenSplats": "driven"}

__all__ = ["DrivenScene", "DrivenSplats"]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
