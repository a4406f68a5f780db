"""Which optimisers a fit steps, and which parameters each of them has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .settings import FitSettings

THIN = 16  # rows or columns below which a matrix is left to AdamW: there is little to make orthogonal


def optimizers_of(parameters: Sequence[nn.Parameter], settings: FitSettings) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or with Muon for the matrices (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).

    Muon's steps are scaled to the size of AdamW's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2), so that one learning rate serves both.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    matrices = [value for value in parameters if settings.optimizer == "muon" and value.ndim == 2 and min(value.shape) >= THIN]
    chosen = {id(value) for value in matrices}
    rest = [value for value in parameters if id(value) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if rest:
        found.append(torch.optim.AdamW(rest, lr=rate, weight_decay=decay))
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return found
