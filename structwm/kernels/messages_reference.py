"""Messages along edges in plain torch: the oracle of the kernels in the tests, and the peer in measurements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def edge_messages(receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """As `structwm.kernels.messages.edge_messages`."""
    problem = torch.arange(len(senders), device=senders.device)[:, None, None]
    heard = silu(receivers.unsqueeze(2) + senders[problem, index.long()] + edges @ table)
    return (weights.unsqueeze(-1) * heard).sum(2)
