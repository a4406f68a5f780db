"""A graph network over points: messages within objects, messages from what is near, and a summary of each object, over a few rounds.

The form is that of Sanchez-Gonzalez et al., "Learning to Simulate Complex Physics with Graph Networks", ICML 2020 (encode, process, decode over recent
motions), with a node for each object, by which a push reaches the far side of a body in one round (as the hierarchy of Mrowca et al., NeurIPS 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .dynamics import EDGE, PointDynamics, Told
from .graph import taken


def perceptron(inputs: int, width: int, outputs: int, *, norm: bool = False, scale: float = 1.0) -> nn.Sequential:
    """A hidden layer, and a normalised output where asked for; the last weights begin `scale` as large as usual."""
    last = nn.Linear(width, outputs)
    with torch.no_grad():
        last.weight.mul_(scale)
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.SiLU(), last]
    return nn.Sequential(*layers, nn.LayerNorm(outputs)) if norm else nn.Sequential(*layers)


class Messages(nn.Module):
    """What nodes say to those whose neighbours they are, (P, R, W): a nonlinearity of receiver, sender and edge, summed up and mixed."""

    def __init__(self, width: int, *, mean: bool) -> None:
        super().__init__()
        self.mean = mean
        self.receiver, self.sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge, self.mix = nn.Linear(EDGE, width, bias=False), nn.Linear(width, width)

    def forward(self, receivers: Tensor, senders: Tensor, edges: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Of receivers (P, R, W) and senders (P, Q, W), with edges (P, R, K, EDGE) that weigh (P, R, K)."""
        said = taken(self.sender(senders), rows, *edges.shape[1:3])
        if torch.is_grad_enabled():
            heard = silu(self.receiver(receivers).unsqueeze(2) + said + self.edge(edges)) * weights.unsqueeze(-1)
        else:  # the same in place
            said.view(-1, said.shape[-1]).addmm_(edges.reshape(-1, EDGE), self.edge.weight.T)
            heard = silu(said.add_(self.receiver(receivers).unsqueeze(2)), inplace=True).mul_(weights.unsqueeze(-1))
        total = heard.sum(2)
        if self.mean:
            total = total / weights.sum(-1, keepdim=True).clamp_min(1)
        mixed: Tensor = self.mix(total)
        return mixed


class Round(nn.Module):
    """One round of messages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.within, self.across = Messages(width, mean=True), Messages(width, mean=False)
        self.whole = perceptron(2 * width, width, width)
        self.update = perceptron(4 * width, width, width, norm=True)

    def forward(self, points: Tensor, robot: Tensor, told: Told) -> Tensor:
        """Points (P, N, W) after the round."""
        nodes = torch.cat((points, robot), 1)
        inside = self.within(points, nodes, told.within_edges, told.within_rows, told.within.valid.to(points))
        outside = self.across(points, nodes, told.across_edges, told.across_rows, told.across_weights)
        member = told.member
        count = member.sum(-1, keepdim=True).clamp_min(1.0)
        pushed = member @ outside
        objects = self.whole(torch.cat(((member @ points) / count, pushed), -1))
        own = member.transpose(-1, -2) @ objects
        changed: Tensor = points + self.update(torch.cat((points, inside, outside, own), -1))
        return changed


class GraphDynamics(PointDynamics):
    """A graph network over the points of a cloud.

    Args:
        width: numbers of each node; more fit finer and cost more.
        layers: rounds of messages.
        options: as of `PointDynamics`.
    """

    def __init__(self, *, width: int = 64, layers: int = 3, **options: Any) -> None:
        super().__init__(**options)
        if width < 1 or layers < 1:
            raise ValueError(f"GraphDynamics needs width and layers of at least 1, got {width} and {layers}.")
        self.width, self.layers = width, layers
        self.encoder = perceptron(self.told, width, width, norm=True)
        self.rounds = nn.ModuleList(Round(width) for _ in range(layers))
        self.decoder = perceptron(width, width, self.head.inputs, scale=0.1)

    def config(self) -> dict[str, Any]:
        return super().config() | {"width": self.width, "layers": self.layers}

    def encode(self, told: Told) -> Tensor:
        nodes = self.encoder(told.nodes)
        points, robot = nodes[:, : told.across.index.shape[1]], nodes[:, told.across.index.shape[1] :]
        for each in self.rounds:
            points = each(points, robot, told)
        raw: Tensor = self.decoder(points)
        return raw
