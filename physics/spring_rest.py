"""Rest lengths under which a network of springs is at rest where it is, under its weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .spring_body import SpringBody

RIDGE = 1e-6  # of the least squares, over the mean of their diagonal: what cannot be balanced is left
MOST = 0.5  # share by which a rest length may change


def balanced_lengths(body: SpringBody, strength: Tensor, weight: Tensor) -> Tensor:
    """Rest lengths (M,) [m], as near to the body's by share as can be, of springs that carry the weight of every free particle where it is.

    Tension is strength times (length / rest - 1), so forces are linear in the inverse rest lengths, and the least change of these is a least-norm solution.
    Without it a body that was observed hanging sags once more (sag-free starts: Hsu et al., ACM Transactions on Graphics 2022). What the ground or a grip of
    springs carries is not known of.

    Args:
        body: where it is observed, its `lengths` those to begin with.
        strength: tension over strain (M,) [N].
        weight: of each particle (P,), downward [N].
    """
    a, b = body.springs.unbind(-1)
    way = body.positions[b] - body.positions[a]
    length = way.norm(dim=-1)
    along = way / length.unsqueeze(-1)
    share = length / body.lengths
    number = torch.arange(len(a))
    slopes = torch.zeros(body.particles, 3, len(a), dtype=torch.float64)  # of the forces by relative changes of the inverse lengths
    pull = (strength * share).unsqueeze(-1) * along
    slopes[a, :, number] += pull
    slopes[b, :, number] -= pull
    tension = (strength * (share - 1)).unsqueeze(-1) * along
    net = torch.zeros(body.particles, 3, dtype=torch.float64).index_add(0, a, tension).index_add(0, b, -tension)
    net[:, 2] -= weight
    free = body.free
    matrix, lacking = slopes[free].reshape(-1, len(a)), -net[free].reshape(-1)
    gram = matrix @ matrix.T
    ridge = RIDGE * float(gram.diagonal().mean()) * torch.eye(len(gram), dtype=torch.float64)
    change = matrix.T @ torch.linalg.solve(gram + ridge, lacking)
    return body.lengths / (1 + change).clamp(1 - MOST, 1 + MOST)
