"""Where the tokens of a splat scene are: at the middles of groups of splats that are near one another and alike in colour."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.perception import farthest_points

ROUNDS = 4  # of Lloyd's algorithm


def spread_tokens(means: Tensor, colors: Tensor, seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Splats far from one another as first places of tokens: (P, L, 6) of place [m] and colour, and which there are, bool (P, L).

    Args:
        means: (P, N, 3) [m].
        colors: (P, N, 3).
        seen: bool (P, N), which splats count.
        count: L; where fewer splats count, the last tokens are not there.
    """
    chosen = farthest_points(means, count, mask=seen)
    both = torch.cat((means, colors), -1)
    return both.gather(1, chosen.clamp_min(0).unsqueeze(-1).expand(-1, -1, 6)), chosen >= 0


def settle_tokens(means: Tensor, colors: Tensor, seen: Tensor, places: Tensor, there: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm (IEEE Transactions on Information Theory, 1982) from given places: each token goes to the middle of the splats nearest to it.

    From the places of the instant before, tokens go with the splats that they are of, because groups move as their splats do.

    Args:
        means: (P, N, 3) [m].
        colors: (P, N, 3).
        seen: bool (P, N).
        places: (P, L, 6) of place [m] and colour.
        there: bool (P, L), which tokens there are.
        weight: [m] that a difference of 1 in a colour counts.

    Returns:
        Places and colours (P, L, 6); which tokens have splats, bool (P, L), others stay where they were; and each splat's token, int64 (P, N).
    """
    scale = torch.cat((weight.new_ones(3), weight.expand(3)))
    both = torch.cat((means, colors), -1)
    for _ in range(ROUNDS):
        away = torch.cdist(both * scale, places * scale, compute_mode="donot_use_mm_for_euclid_dist")
        own = away.masked_fill(~there.unsqueeze(1), float("inf")).argmin(-1)
        member = (torch.nn.functional.one_hot(own, places.shape[1]) * seen.unsqueeze(-1)).to(means)
        size = member.sum(1).unsqueeze(-1)
        places = torch.where(size > 0, member.mT @ both / size.clamp_min(1.0), places)
    return places, there & (size.squeeze(-1) > 0), own
