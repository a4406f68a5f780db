"""A correction learned on top of any model, kept only where it helps on episodes that neither training nor stopping saw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from structwm.spec import Action
from structwm.state import State, fields_of
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

from .delta_model import DeltaModel
from .losses import Loss, RolloutLoss
from .open_loop import clustered_standard_error, open_loop_errors
from .settings import FitSettings
from .training_loop import Fitted, fit
from .windows import episodes_of, select


class NetworkCorrection(nn.Module):
    """What a network adds to a prediction: the change that a `DeltaModel` predicts, zero before it is trained.

    Args:
        network: reads state and action; its scales say how large a correction of one is.
    """

    def __init__(self, network: DeltaModel[Any]) -> None:
        super().__init__()
        self.network = network
        last = network.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, state: State, action: Action, predicted: State) -> dict[str, Tensor]:
        fields = fields_of(state)
        following = self.network.step_fields(fields, action)
        return {name: following[name] - fields[name] for name in self.network.sizes}


@dataclass(frozen=True)
class GatedResidual:
    """A model with its correction, or without where the gate dropped it."""

    model: TransitionModel[Any]  # Residual(base, correction), or base
    kept: bool
    gain: float  # by how much the correction lowers the error on the gate's windows, in errors of holding still; negative where it hurts
    standard_error: float  # of the gain
    fitted: Fitted[Any]


def fit_residual(
    base: TransitionModel[Any],
    correction: nn.Module,
    train: Any,
    *,
    held_out: Any,
    loss: Loss = RolloutLoss(),
    settings: FitSettings = FitSettings(),
    margin: float = 1.0,
    run: str | Path | None = None,
    progress: bool = True,
) -> GatedResidual:
    """Train a correction of a model, and keep it only if it lowers the held-out error by `margin` standard errors.

    Half of the held-out episodes decides when training stops, the other half whether the correction stays. The base should not have been fitted on `train`:
    the errors of a fitted model on its own data are smaller than those it makes elsewhere. Its own parameters are not trained.

    Args:
        base: what is corrected.
        correction: a module of (state, action, predicted state) that returns additive corrections by field, as `structwm.Residual` takes it.
        train: a `Batch` or `EpisodeWindows`.
        held_out: windows of other episodes, four episodes at least; the windows of a `Batch` are taken to be from one each.
        loss, settings, run, progress: as for `fit`.
        margin: larger drops more corrections.

    Raises:
        ValueError: if there are fewer than four held-out episodes.
    """
    episode = episodes_of(held_out)
    names = np.unique(episode)
    if len(names) < 4:
        raise ValueError(f"fit_residual needs windows of at least four held-out episodes, half of them for its gate, got {len(names)}.")
    order = np.random.default_rng(settings.seed).permutation(names)
    stop, gate = (select(held_out, np.flatnonzero(np.isin(episode, part)).tolist()) for part in (order[::2], order[1::2]))
    model = Residual(base, correction)
    trained = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    base.requires_grad_(False)
    try:
        fitted = fit(model, train, held_out=stop, loss=loss, settings=settings, run=run, progress=progress)
    finally:
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)
    gain, error = paired_gain(base, fitted.model, gate)
    kept = gain > margin * error
    return GatedResidual(fitted.model if kept else base, kept, gain, error, fitted)


def paired_gain(base: TransitionModel[Any], other: TransitionModel[Any], windows: Any) -> tuple[float, float]:
    """How much lower the other model's relative error is on the same windows: the mean, and its standard error with windows of one episode as dependent.

    Minus infinity where a rollout of the other model broke and the base's did not.
    """
    gain = (open_loop_errors(base, windows).relative() - open_loop_errors(other, windows).relative()).double()
    known = ~gain.isnan()  # both broke, or nothing was observed
    gain, episode = gain[known], episodes_of(windows)[known.numpy()]
    finite = gain[gain.isfinite()]
    if bool((gain == -math.inf).any()):
        return -math.inf, 0.0
    if len(np.unique(episode)) < 2 or not len(finite):
        return 0.0, math.inf
    gain = gain.clamp(max=float(finite.max()))  # a base that breaks where the other does not counts as the other's best window
    return float(gain.mean()), clustered_standard_error(gain.numpy(), episode)
