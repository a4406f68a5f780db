"""Ensembles of trained models: the same network from several seeds, each on its own bootstrap of the windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structwm.ensemble import Ensemble
from structwm.transition import TransitionModel

from .losses import Loss, RolloutLoss
from .saving import save_model
from .settings import FitSettings
from .training_loop import Fitted, fit
from .windows import select


@dataclass(frozen=True)
class FittedEnsemble:
    """An ensemble and how each member came to be."""

    model: Ensemble[Any]
    fitted: Sequence[Fitted[Any]]  # one a member


def fit_ensemble(
    make: Callable[[int], TransitionModel[Any]],
    train: Any,
    *,
    held_out: Any,
    members: int = 5,
    bootstrap: bool = True,
    loss: Loss = RolloutLoss(),
    settings: FitSettings = FitSettings(),
    run: str | Path | None = None,
    progress: bool = True,
) -> FittedEnsemble:
    """Train E models that differ by their seeds and, with `bootstrap`, by the windows they see (Lakshminarayanan et al., NeurIPS 2017; Chua et al., 2018).

    Args:
        make: a fresh model for member e; torch's generator is seeded before it is called.
        train: a `Batch` or `EpisodeWindows`; member e sees as many windows, drawn from it with replacement.
        held_out: windows of other episodes, the same for all members.
        members: E; more tell more of what the data leave open, and take as much longer.
        bootstrap: whether members see different windows.
        loss, settings, progress: as for `fit`; member e has the seed `settings.seed + e`.
        run: folder of one run folder a member, `member-0` and so on, and of the ensemble itself for `load_model`. Resumes as `fit` does.

    Raises:
        ValueError: if there is no member to train, or nothing to train it on.
    """
    if members < 1:
        raise ValueError(f"fit_ensemble needs at least one member, got {members}.")
    if len(train) == 0:
        raise ValueError("fit_ensemble needs at least one window in train, got none.")
    fitted = []
    for e in range(members):
        seed = settings.seed + e
        rows = np.random.default_rng((seed, 7)).integers(0, len(train), len(train)).tolist() if bootstrap else list(range(len(train)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make(e)
        folder = None if run is None else Path(run) / f"member-{e}"
        part = select(train, rows)
        fitted.append(fit(model, part, held_out=held_out, loss=loss, settings=replace(settings, seed=seed), run=folder, progress=progress))
    ensemble: Ensemble[Any] = Ensemble([one.model for one in fitted])
    together = torch.distributed.is_available() and torch.distributed.is_initialized()  # several processes, of which the first one writes
    if run is not None and not (together and torch.distributed.get_rank()):
        save_model(ensemble, Path(run) / "model", facts={"held_out": [one.best_error for one in fitted]})
    if together:
        torch.distributed.barrier()
    return FittedEnsemble(ensemble, fitted)
