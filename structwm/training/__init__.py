"""Run folders, which a killed job resumes from. Needs no torch; names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.training.run_folder import Checkpoint, RunFolder

__all__ = ["Checkpoint", "RunFolder"]

__getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys(__all__, "run_folder"))
