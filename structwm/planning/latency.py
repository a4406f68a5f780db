"""Latency read from what was commanded and what moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def estimate_latency(commands: Sequence[Tensor], responses: Sequence[Tensor], *, longest: int = 4) -> int:
    """By how many control steps a world runs behind its commands.

    Compares what was commanded with what was felt, shifted by 0..`longest` steps, and takes the shift with the smallest squared difference.

    Args:
        commands: T actions (B, A), oldest first.
        responses: T measurements (B, A) of the same quantity over the same steps, for example the displacement of a driven body over dt.
        longest: largest latency considered.

    Returns:
        The latency in steps; 0 while nothing has moved or fewer than `longest + 2` steps are known.
    """
    if len(commands) != len(responses):
        raise ValueError(f"estimate_latency needs as many commands as responses, got {len(commands)} and {len(responses)}.")
    if len(commands) < longest + 2:
        return 0
    sent, felt = torch.stack(tuple(commands)).double(), torch.stack(tuple(responses)).double()
    if float(felt.square().sum()) == 0.0:
        return 0
    errors = [float((felt[longest:] - sent[longest - shift : len(sent) - shift]).square().sum()) for shift in range(longest + 1)]
    return min(range(longest + 1), key=errors.__getitem__)
