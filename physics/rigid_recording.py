"""Moved to `rigid_runs`."""

from .rigid_runs import RigidRun, rigid_recording

__all__ = ["RigidRun", "rigid_recording"]
