"""Interchangeable structured world models: one contract (`state, action -> next state`) over physics, points, tracks, symbols and latents.

Names load when first used, so that `structwm --help` and planning on PDDL need neither torch nor Warp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.check import ModelCheckError, check_model
    from structwm.ensemble import Ensemble, Propagation, disagreement
    from structwm.interfaces import (
        Belief,
        Constraint,
        Estimator,
        Forecaster,
        Grounding,
        InverseModel,
        Objective,
        Observation,
        Plan,
        Planner,
        Policy,
        SubgoalGenerator,
        Subgoals,
        Task,
        require_views,
    )
    from structwm.noise import Noise
    from structwm.scene import Scene, ViewMissing
    from structwm.spec import Action, ActionSpec, HybridAction, ModelSpec, Traits
    from structwm.state import Points, Splats, State, Tracks
    from structwm.transition import Outcome, Trajectory, TransitionModel, recorded_trajectory
    from structwm.wrappers import ActionTransform, Chunked, ModelWrapper, Normalised, Residual

__version__ = "0.1.0"

_NAMES = {
    "check": ("ModelCheckError", "check_model"),
    "ensemble": ("Ensemble", "Propagation", "disagreement"),
    "interfaces": (
        "Belief",
        "Constraint",
        "Estimator",
        "Forecaster",
        "Grounding",
        "InverseModel",
        "Objective",
        "Observation",
        "Plan",
        "Planner",
        "Policy",
        "SubgoalGenerator",
        "Subgoals",
        "Task",
        "require_views",
    ),
    "noise": ("Noise",),
    "scene": ("Scene", "ViewMissing"),
    "spec": ("Action", "ActionSpec", "HybridAction", "ModelSpec", "Traits"),
    "state": ("Points", "Splats", "State", "Tracks"),
    "transition": ("Outcome", "Trajectory", "TransitionModel", "recorded_trajectory"),
    "wrappers": ("ActionTransform", "Chunked", "ModelWrapper", "Normalised", "Residual"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
