"""Run folders, which a killed job resumes from. Needs no torch; names load when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structwm.training.run_folder import Checkpoint, RunFolder

__all__ = ["Checkpoint", "RunFolder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.run_folder"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
