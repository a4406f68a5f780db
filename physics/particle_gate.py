"""Whether what was learned of a twin's errors is kept: by how much it helps runs that it was not learned from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from structwm.training.open_loop import clustered_standard_error

FEWEST = 4  # held-out runs that the gate needs


def judged(gains: Tensor, margin: float) -> tuple[float, float, bool, str]:
    """Mean gain of the held-out runs (n,) [m], its standard error, whether a correction stays, and why."""
    if len(gains) < FEWEST:
        return float("nan"), float("inf"), False, f"dropped: {len(gains)} held-out runs tell nothing, {FEWEST} are needed"
    gain, error = float(gains.mean()), clustered_standard_error(gains.double().numpy(), np.arange(len(gains)))
    kept = gain > margin * error
    words = f"it lowers the error of {len(gains)} held-out runs by {1e3 * gain:.2f} mm, with a standard error of {1e3 * error:.2f} mm"
    return gain, error, kept, f"{'kept' if kept else 'dropped'}: {words}"


def folds_of(count: int, folds: int, seed: int) -> Tensor:
    """Which fold each run is in, (N,)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order.argsort() % min(folds, count)
