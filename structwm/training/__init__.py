"""Training and judging: windows, a fit loop, residuals, ensembles, conformal regions, novelty, saved models, run folders. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.training.conformal import ConformalRegions, CoverageRate
    from structwm.training.delta_model import DeltaModel
    from structwm.training.ensembles import FittedEnsemble, fit_ensemble
    from structwm.training.heads import GaussianHead, Head, MeanHead, MixtureHead
    from structwm.training.losses import Loss, NegativeLogLikelihood, RolloutLoss
    from structwm.training.novelty import KnownCodes, Mahalanobis, NearestNeighbours, auroc, fuse, p_value, surprise
    from structwm.training.open_loop import OpenLoop, open_loop_errors
    from structwm.training.residual import GatedResidual, NetworkCorrection, fit_residual
    from structwm.training.run_folder import Checkpoint, RunFolder
    from structwm.training.saving import load_model, model_facts, save_model
    from structwm.training.settings import Curriculum, FitSettings
    from structwm.training.spread_scale import SpreadScale
    from structwm.training.statistics import Statistics
    from structwm.training.training_loop import Fitted, fit
    from structwm.training.windows import Batch, EpisodeWindows

_HOME = {
    "Batch": "windows",
    "Checkpoint": "run_folder",
    "ConformalRegions": "conformal",
    "CoverageRate": "conformal",
    "Curriculum": "settings",
    "DeltaModel": "delta_model",
    "EpisodeWindows": "windows",
    "FitSettings": "settings",
    "Fitted": "training_loop",
    "FittedEnsemble": "ensembles",
    "GatedResidual": "residual",
    "GaussianHead": "heads",
    "Head": "heads",
    "KnownCodes": "novelty",
    "Loss": "losses",
    "Mahalanobis": "novelty",
    "MeanHead": "heads",
    "MixtureHead": "heads",
    "NearestNeighbours": "novelty",
    "NegativeLogLikelihood": "losses",
    "NetworkCorrection": "residual",
    "OpenLoop": "open_loop",
    "RolloutLoss": "losses",
    "RunFolder": "run_folder",
    "SpreadScale": "spread_scale",
    "Statistics": "statistics",
    "auroc": "novelty",
    "fit": "training_loop",
    "fit_ensemble": "ensembles",
    "fit_residual": "residual",
    "fuse": "novelty",
    "load_model": "saving",
    "model_facts": "saving",
    "open_loop_errors": "open_loop",
    "p_value": "novelty",
    "save_model": "saving",
    "surprise": "novelty",
}

__all__ = [
    "Batch",
    "Checkpoint",
    "ConformalRegions",
    "CoverageRate",
    "Curriculum",
    "DeltaModel",
    "EpisodeWindows",
    "FitSettings",
    "Fitted",
    "FittedEnsemble",
    "GatedResidual",
    "GaussianHead",
    "Head",
    "KnownCodes",
    "Loss",
    "Mahalanobis",
    "MeanHead",
    "MixtureHead",
    "NearestNeighbours",
    "NegativeLogLikelihood",
    "NetworkCorrection",
    "OpenLoop",
    "RolloutLoss",
    "RunFolder",
    "SpreadScale",
    "Statistics",
    "auroc",
    "fit",
    "fit_ensemble",
    "fit_residual",
    "fuse",
    "load_model",
    "model_facts",
    "open_loop_errors",
    "p_value",
    "save_model",
    "surprise",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
