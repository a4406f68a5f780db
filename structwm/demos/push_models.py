"""The models that the pushing demo plans with: one word exchanges what predicts, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from structwm.data import Pushes
from structwm.ensemble import Ensemble
from structwm.physics.calibration import Calibration
from structwm.physics.push_correction import Fused, GeometricPush, PushCorrection
from structwm.physics.push_features import PushGeometry
from structwm.physics.push_learning import calibrate_known_geometry, hybrid_push_model, learned_push_model
from structwm.physics.pushing import PushScene, PushState, PushTwin
from structwm.physics.recorded_pushes import push_shape
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

ModelName = Literal["physics", "learned", "hybrid", "ensemble"]
MEMBERS = 8  # of an ensemble

WORDS: dict[ModelName, str] = {
    "physics": "the calibrated twin",
    "learned": "a model learned from the pushes alone, without friction or a limit surface",
    "hybrid": "the calibrated twin with a learned correction, as far as the correction's gate lets it through",
    "ensemble": f"{MEMBERS} twins drawn from the calibration's posterior",
}


@dataclass(frozen=True)
class Found:
    """A model of an object's pushes."""

    model: TransitionModel[PushState]
    gate: float | None = None  # share of the correction that a hybrid uses


def find_model(name: ModelName, pushes: Pushes, calibration: Calibration[PushTwin]) -> Found:
    """The named model of one object, from recorded pushes with known geometry.

    Args:
        name: which.
        pushes: what it learns from.
        calibration: of the object's twin on the same pushes.

    Returns:
        A model with the timing of its own; `retimed` gives it another.
    """
    if name == "physics":
        return Found(calibration.twin)
    if name == "ensemble":
        return Found(calibration.sample(MEMBERS))
    if name == "learned":
        geometry = PushGeometry(push_shape(pushes), float(pushes.tip_radius))
        return Found(learned_push_model([pushes], geometry=[geometry]).models[0])
    found = hybrid_push_model([pushes], calibrator=calibrate_known_geometry)
    return Found(found.models[0] if found.gate > 0 else calibration.twin, found.gate)


def retimed(model: TransitionModel[PushState], control: PushTwin) -> TransitionModel[PushState]:
    """The same model with the step, the speed limit and the scene of a control twin: quasi-static pushing does not depend on speed."""
    if isinstance(model, PushTwin):
        return control.with_parameters(dict(model.values))
    if isinstance(model, Ensemble) and isinstance(model.joint, PushTwin):
        return Ensemble(control.with_parameters(dict(model.joint.values)), propagation=model.propagation)
    if isinstance(model, Residual) and isinstance(model.correction, PushCorrection):
        return Residual(_base(model.model, control), model.correction)
    raise TypeError(f"expected a twin, an ensemble of twins or a corrected model of pushing, got a {type(model).__name__}.")


def _base(base: Any, control: PushTwin) -> TransitionModel[PushState]:
    if isinstance(base, GeometricPush):
        assert isinstance(control.scene, PushScene)
        return GeometricPush(base.geometry, replace(control.spec, members=1), control.scene)
    if isinstance(base, Fused):
        return Fused(retimed(base.model, control))
    return retimed(base, control)
