"""Splats that move with a model's points, so that any model with a points view is seen as a scene of Gaussian splats; and scenes of splats as few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.splats.driven import DrivenScene, DrivenSplats
    from structwm.splats.dynamics import SplatDynamics
    from structwm.splats.encoder import SplatEncoder, SplatLatents
    from structwm.splats.encoder_training import SplatReconstructionLoss, fit_splat_encoder
    from structwm.splats.first_frame import TableScene, table_scene
    from structwm.splats.latent_dynamics import SplatLatentDynamics, SplatLatentScene, SplatLatentState
    from structwm.splats.latent_training import SplatLatentLoss, follow_splats, latent_windows
    from structwm.splats.photometric import FilmedScene, PhotometricLoss, filmed
    from structwm.splats.splat_scene import ROBOT, STATIC, SplatScene, render_states

_HOME = {
    "DrivenScene": "driven",
    "DrivenSplats": "driven",
    "FilmedScene": "photometric",
    "PhotometricLoss": "photometric",
    "ROBOT": "splat_scene",
    "STATIC": "splat_scene",
    "SplatDynamics": "dynamics",
    "SplatEncoder": "encoder",
    "SplatLatentDynamics": "latent_dynamics",
    "SplatLatentLoss": "latent_training",
    "SplatLatentScene": "latent_dynamics",
    "SplatLatentState": "latent_dynamics",
    "SplatLatents": "encoder",
    "SplatReconstructionLoss": "encoder_training",
    "SplatScene": "splat_scene",
    "TableScene": "first_frame",
    "filmed": "photometric",
    "fit_splat_encoder": "encoder_training",
    "follow_splats": "latent_training",
    "latent_windows": "latent_training",
    "render_states": "splat_scene",
    "table_scene": "first_frame",
}

__all__ = [
    "ROBOT",
    "STATIC",
    "DrivenScene",
    "DrivenSplats",
    "FilmedScene",
    "PhotometricLoss",
    "SplatDynamics",
    "SplatEncoder",
    "SplatLatentDynamics",
    "SplatLatentLoss",
    "SplatLatentScene",
    "SplatLatentState",
    "SplatLatents",
    "SplatReconstructionLoss",
    "SplatScene",
    "TableScene",
    "filmed",
    "fit_splat_encoder",
    "follow_splats",
    "latent_windows",
    "render_states",
    "table_scene",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
