"""Training: windows of episodes, a fit loop, residuals, ensembles, saved models, prediction errors, run folders. Needs no torch until a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.training.delta_model import DeltaModel
    from structwm.training.ensembles import FittedEnsemble, fit_ensemble
    from structwm.training.heads import GaussianHead, Head, MeanHead, MixtureHead
    from structwm.training.losses import Loss, NegativeLogLikelihood, RolloutLoss
    from structwm.training.open_loop import OpenLoop, open_loop_errors
    from structwm.training.residual import GatedResidual, NetworkCorrection, fit_residual
    from structwm.training.run_folder import Checkpoint, RunFolder
    from structwm.training.saving import load_model, model_facts, save_model
    from structwm.training.settings import Curriculum, FitSettings
    from structwm.training.statistics import Statistics
    from structwm.training.training_loop import Fitted, fit
    from structwm.training.windows import Batch, EpisodeWindows

_HOME = {
    "Batch": "windows",
    "Checkpoint": "run_folder",
    "Curriculum": "settings",
    "DeltaModel": "delta_model",
    "EpisodeWindows": "windows",
    "FitSettings": "settings",
    "Fitted": "training_loop",
    "FittedEnsemble": "ensembles",
    "GatedResidual": "residual",
    "GaussianHead": "heads",
    "Head": "heads",
    "Loss": "losses",
    "MeanHead": "heads",
    "MixtureHead": "heads",
    "NegativeLogLikelihood": "losses",
    "NetworkCorrection": "residual",
    "OpenLoop": "open_loop",
    "RolloutLoss": "losses",
    "RunFolder": "run_folder",
    "Statistics": "statistics",
    "fit": "training_loop",
    "fit_ensemble": "ensembles",
    "fit_residual": "residual",
    "load_model": "saving",
    "model_facts": "saving",
    "open_loop_errors": "open_loop",
    "save_model": "saving",
}

__all__ = [
    "Batch",
    "Checkpoint",
    "Curriculum",
    "DeltaModel",
    "EpisodeWindows",
    "FitSettings",
    "Fitted",
    "FittedEnsemble",
    "GatedResidual",
    "GaussianHead",
    "Head",
    "Loss",
    "MeanHead",
    "MixtureHead",
    "NegativeLogLikelihood",
    "NetworkCorrection",
    "OpenLoop",
    "RolloutLoss",
    "RunFolder",
    "Statistics",
    "fit",
    "fit_ensemble",
    "fit_residual",
    "load_model",
    "model_facts",
    "open_loop_errors",
    "save_model",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
