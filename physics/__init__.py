"""Physics twins and their calibration: `structwm.physics`. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if not __name__.startswith("structwm."):
    raise ImportError(f"import structwm.{__name__} instead of {__name__}: as a top-level package every class would exist twice.")

if TYPE_CHECKING:
    from structwm.physics.calibration import Calibration, Settings, calibrate
    from structwm.physics.family import calibrate_family
    from structwm.physics.limit_surface import EllipsoidSupport, PressureSupport, Support
    from structwm.physics.parameters import Parameter, ParameterSpace
    from structwm.physics.posterior import Evidence, Prior
    from structwm.physics.push_correction import PushCorrection
    from structwm.physics.push_intervals import TwinRegions, out_of_fold_errors
    from structwm.physics.push_learning import LearnedPushes, hybrid_push_model, learned_push_model, unseen_push_model
    from structwm.physics.push_novelty import explanation_features, transition_features
    from structwm.physics.push_proposals import PushProposals
    from structwm.physics.pushing import PushScene, PushState, PushTwin
    from structwm.physics.recorded_pushes import contact_gap, final_pose, push_recording, push_twin, push_windows
    from structwm.physics.recording import Recording
    from structwm.physics.twin import Twin

_HOME = {
    "Calibration": "calibration",
    "EllipsoidSupport": "limit_surface",
    "Evidence": "posterior",
    "LearnedPushes": "push_learning",
    "Parameter": "parameters",
    "ParameterSpace": "parameters",
    "PressureSupport": "limit_surface",
    "Prior": "posterior",
    "PushCorrection": "push_correction",
    "PushProposals": "push_proposals",
    "PushScene": "pushing",
    "PushState": "pushing",
    "PushTwin": "pushing",
    "Recording": "recording",
    "Settings": "calibration",
    "Support": "limit_surface",
    "Twin": "twin",
    "TwinRegions": "push_intervals",
    "calibrate": "calibration",
    "calibrate_family": "family",
    "contact_gap": "recorded_pushes",
    "explanation_features": "push_novelty",
    "final_pose": "recorded_pushes",
    "hybrid_push_model": "push_learning",
    "learned_push_model": "push_learning",
    "out_of_fold_errors": "push_intervals",
    "push_recording": "recorded_pushes",
    "push_twin": "recorded_pushes",
    "push_windows": "recorded_pushes",
    "transition_features": "push_novelty",
    "unseen_push_model": "push_learning",
}

__all__ = [
    "Calibration",
    "EllipsoidSupport",
    "Evidence",
    "LearnedPushes",
    "Parameter",
    "ParameterSpace",
    "PressureSupport",
    "Prior",
    "PushCorrection",
    "PushProposals",
    "PushScene",
    "PushState",
    "PushTwin",
    "Recording",
    "Settings",
    "Support",
    "Twin",
    "TwinRegions",
    "calibrate",
    "calibrate_family",
    "contact_gap",
    "explanation_features",
    "final_pose",
    "hybrid_push_model",
    "learned_push_model",
    "out_of_fold_errors",
    "push_recording",
    "push_twin",
    "push_windows",
    "transition_features",
    "unseen_push_model",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
