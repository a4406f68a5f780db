"""Attention between two sets of things in space: who attends and who is attended to have features and places, and only differences of places are seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WAVES = (1.0, 2.0)  # radians per unit of length, of the sines and cosines that tell offsets apart
EDGE = 5 + 6 * len(WAVES)  # numbers that are told of a pair


@dataclass(frozen=True)
class Pairs:
    """What attention is told of Q receivers and R senders."""

    edges: Tensor  # (P, Q, R, EDGE), bounded
    squares: Tensor  # (P, Q, R) squared distances in units of length
    mask: Tensor  # bool (P, R), False for senders that are not there

    @classmethod
    def of(cls, receivers: Tensor, senders: Tensor, mask: Tensor, length: Tensor) -> Pairs:
        """Of places (P, Q, 3) and (P, R, 3) [m], in units of `length` [m]."""
        offset = (senders.unsqueeze(1) - receivers.unsqueeze(2)) / length
        squares = offset.square().sum(-1)
        near, distance = torch.exp(-squares / 8).unsqueeze(-1), (squares + 1e-6).sqrt().unsqueeze(-1)
        waves = [near * wave(rate * offset) for rate in WAVES for wave in (torch.sin, torch.cos)]
        return cls(torch.cat((offset / (1 + distance), distance / (1 + distance), near, *waves), -1), squares, mask)


class SetAttention(nn.Module):
    """Heads of attention from receivers (P, Q, W) to senders (P, R, W), each with a reach of its own that is learned.

    What a pair adds to keys and values is linear in what is told of it, so that it never becomes as wide as the features are.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"SetAttention needs a width that is a multiple of heads, got {width} and {heads}.")
        self.heads = heads
        self.query, self.both, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width, bias=False), nn.Linear(width, width)
        self.edge = nn.Parameter(torch.randn(2, heads, width // heads, EDGE) * EDGE**-0.5)
        self.reach = nn.Parameter(torch.linspace(-3.0, 1.0, heads))  # the first heads see far, the last what is near

    def forward(self, receivers: Tensor, senders: Tensor, pairs: Pairs) -> Tensor:
        """(P, Q, W); of no senders, what the output layer makes of zeros."""
        keys, values = self.both(senders).unflatten(-1, (2, self.heads, -1)).unbind(2)
        asked = self.query(receivers).unflatten(-1, (self.heads, -1)) / keys.shape[-1] ** 0.5
        told = torch.einsum("pqhd,hde->pqhe", asked, self.edge[0])
        scores = torch.einsum("pqhd,prhd->phqr", asked, keys) + torch.einsum("pqhe,pqre->phqr", told, pairs.edges)
        scores = scores - nn.functional.softplus(self.reach)[:, None, None] * pairs.squares.unsqueeze(1)
        there = pairs.mask[:, None, None]
        weights = scores.masked_fill(~there, -1e9).softmax(-1) * there
        added = torch.einsum("phqr,pqre,hde->pqhd", weights, pairs.edges, self.edge[1])
        found: Tensor = self.out((torch.einsum("phqr,prhd->pqhd", weights, values) + added).flatten(-2))
        return found


class SetBlock(nn.Module):
    """Attention and a perceptron, each added to what was (Vaswani et al., NeurIPS 2017, normalised before)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.sent, self.second = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SetAttention(width, heads)
        self.forth = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, receivers: Tensor, senders: Tensor, pairs: Pairs) -> Tensor:
        """(P, Q, W)."""
        receivers = receivers + self.attention(self.first(receivers), self.sent(senders), pairs)
        changed: Tensor = receivers + self.forth(self.second(receivers))
        return changed
