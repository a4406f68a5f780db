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
    from structwm.physics.push_proposals import PushProposals
    from structwm.physics.pushing import PushScene, PushState, PushTwin
    from structwm.physics.recorded_pushes import contact_gap, push_recording, push_twin
    from structwm.physics.recording import Recording
    from structwm.physics.twin import Twin

_HOME = {
    "Calibration": "calibration",
    "EllipsoidSupport": "limit_surface",
    "Evidence": "posterior",
    "Parameter": "parameters",
    "ParameterSpace": "parameters",
    "PressureSupport": "limit_surface",
    "Prior": "posterior",
    "PushProposals": "push_proposals",
    "PushScene": "pushing",
    "PushState": "pushing",
    "PushTwin": "pushing",
    "Recording": "recording",
    "Settings": "calibration",
    "Support": "limit_surface",
    "Twin": "twin",
    "calibrate": "calibration",
    "calibrate_family": "family",
    "contact_gap": "recorded_pushes",
    "push_recording": "recorded_pushes",
    "push_twin": "recorded_pushes",
}

__all__ = [
    "Calibration",
    "EllipsoidSupport",
    "Evidence",
    "Parameter",
    "ParameterSpace",
    "PressureSupport",
    "Prior",
    "PushProposals",
    "PushScene",
    "PushState",
    "PushTwin",
    "Recording",
    "Settings",
    "Support",
    "Twin",
    "calibrate",
    "calibrate_family",
    "contact_gap",
    "push_recording",
    "push_twin",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
