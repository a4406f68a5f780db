"""Attention among neighbouring points: each point attends to neighbours in its object, to what is near of other things, and to a summary of its object.

The form is that of Zhao et al., "Point Transformer", ICCV 2021 (attention over k neighbours with learned encodings of where they are); the time of a step grows
linearly with the number of points.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .dynamics import EDGE, PointDynamics, Told
from .graph import taken
from .graph_dynamics import perceptron


class Attention(nn.Module):
    """Heads of attention from points (P, N, W) to their neighbours among nodes (P, Q, W), and to the summary of their object."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.both, self.edge = nn.Linear(width, width), nn.Linear(width, 2 * width, bias=False), nn.Linear(EDGE + 1, 2 * width)
        self.summary, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, points: Tensor, robot: Tensor, told: Told) -> Tensor:
        """(P, N, W)."""
        problems, count, width = points.shape
        nodes = self.both(torch.cat((points, robot), 1))
        near = [taken(nodes, rows, *edges.shape[1:3]) for rows, edges in ((told.within_rows, told.within_edges), (told.across_rows, told.across_edges))]
        mean = (told.member @ points) / told.member.sum(-1, keepdim=True).clamp_min(1.0)
        whole = told.member.transpose(-1, -2) @ self.summary(mean)
        keys, values = torch.cat((*near, whole.unsqueeze(2)), 2).unflatten(-1, (2, self.heads, -1)).unbind(3)  # (P, N, J, heads, W / heads), J = K + L + 1
        kinds = torch.cat((pad(told.within_edges, (0, 1)), pad(told.across_edges, (0, 1), value=1.0)), 2)
        kinds = torch.cat((pad(kinds, (0, 1), value=1.0), kinds.new_zeros(problems, count, 1, EDGE + 2)), 2)  # nothing is told of the summary
        table = torch.cat((self.edge.weight, self.edge.bias.unsqueeze(-1)), -1).view(2, self.heads, -1, EDGE + 2)
        asked = self.query(points).unflatten(-1, (self.heads, -1)) * (self.heads / width) ** 0.5
        # what an edge adds to keys and values is linear in what is told of it: it need not be made as wide as they are
        scores = (asked.unsqueeze(2) * keys).sum(-1) + kinds @ torch.einsum("pnhd,hde->pneh", asked, table[0])
        counted = torch.cat((told.within_weights, told.across_weights, points.new_ones(problems, count, 1)), 2)
        weights = (scores + counted.clamp_min(1e-30).log().unsqueeze(-1)).softmax(2) * (counted > 0).unsqueeze(-1)
        added = torch.einsum("pnhe,hde->pnhd", weights.mT @ kinds, table[1])
        found: Tensor = self.out(((weights.unsqueeze(-1) * values).sum(2) + added).flatten(-2))
        return found


class Block(nn.Module):
    """Attention, what is pushed on the whole object, and a perceptron, each added to what was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.pushed = perceptron(width, width, width)
        self.forth = perceptron(2 * width, 2 * width, width)

    def forward(self, points: Tensor, robot: Tensor, told: Told) -> Tensor:
        """(P, N, W)."""
        points = points + self.attention(self.first(points), robot, told)
        normal = self.second(points)
        touched = normal * told.across_weights.amax(-1, keepdim=True)
        own = told.member.transpose(-1, -2) @ self.pushed(told.member @ touched)
        changed: Tensor = points + self.forth(torch.cat((normal, own), -1))
        return changed


class PointTransformer(PointDynamics):
    """Neighbourhood attention over the points of a cloud.

    Args:
        width: numbers of each point, a multiple of `heads`; more fit finer and cost more.
        layers: of attention.
        heads: of each.
        options: as of `PointDynamics`.
    """

    def __init__(self, *, width: int = 64, layers: int = 3, heads: int = 4, **options: Any) -> None:
        super().__init__(**options)
        if layers < 1 or heads < 1 or width < heads or width % heads:
            raise ValueError(f"PointTransformer needs layers of at least 1 and a width that is a multiple of heads, got {layers}, {width} and {heads}.")
        self.width, self.layers, self.heads = width, layers, heads
        self.encoder = perceptron(self.told, width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.decoder = perceptron(width, width, self.head.inputs, scale=0.01)

    def config(self) -> dict[str, Any]:
        return super().config() | {"width": self.width, "layers": self.layers, "heads": self.heads}

    def encode(self, told: Told) -> Tensor:
        nodes = self.encoder(told.nodes)
        points, robot = nodes[:, : told.across_index.shape[1]], nodes[:, told.across_index.shape[1] :]
        for block in self.blocks:
            points = block(points, robot, told)
        raw: Tensor = self.decoder(self.norm(points))
        return raw
