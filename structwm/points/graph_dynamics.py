"""A graph network over points: messages within objects, messages from what is near, and a summary of each object, over a few rounds.

The form is that of Sanchez-Gonzalez et al., "Learning to Simulate Complex Physics with Graph Networks", ICML 2020 (encode, process, decode over recent
motions), with a node for each object, by which a push reaches the far side of a body in one round (as the hierarchy of Mrowca et al., NeurIPS 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structwm.kernels.messages import edge_messages

from .dynamics import EDGE, PointDynamics, Told


def perceptron(inputs: int, width: int, outputs: int, *, norm: bool = False, scale: float = 1.0) -> nn.Sequential:
    """A hidden layer, and a normalised output where asked for; the last numbers begin `scale` as large as usual."""
    last = nn.Linear(width, outputs)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale)
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.SiLU(), last]
    return nn.Sequential(*layers, nn.LayerNorm(outputs)) if norm else nn.Sequential(*layers)


class Messages(nn.Module):
    """What nodes say to those whose neighbours they are, (P, R, W): a nonlinearity of receiver, sender and edge, summed up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.receiver, self.sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(EDGE, width, bias=False)

    def forward(self, receivers: Tensor, senders: Tensor, edges: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Of receivers (P, R, W) and senders (P, Q, W), with edges (P, R, K, EDGE) from senders `index` (P, R, K) that weigh (P, R, K)."""
        return edge_messages(self.receiver(receivers), self.sender(senders), edges, self.edge.weight.T, index, weights)


class Round(nn.Module):
    """One round of messages: the mean of those within an object, the sum of those from other things, and from the object as a whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.within, self.across = Messages(width), Messages(width)
        self.whole = perceptron(2 * width, width, width)
        self.own, self.update = nn.Linear(3 * width, width), perceptron(width, width, width, norm=True)[1:]

    def forward(self, points: Tensor, robot: Tensor, told: Told) -> Tensor:
        """Points (P, N, W) after the round."""
        nodes = torch.cat((points, robot), 1)
        means = told.within_weights / told.within_weights.sum(-1, keepdim=True).clamp_min(1.0)
        inside = self.within(points, nodes, told.within_edges, told.within_index, means)
        outside = self.across(points, nodes, told.across_edges, told.across_index, told.across_weights)
        member = told.member
        count = member.sum(-1, keepdim=True).clamp_min(1.0)
        objects = self.whole(torch.cat(((member @ points) / count, member @ outside), -1))
        known = self.own(torch.cat((points, inside, outside), -1)) + member.transpose(-1, -2) @ objects
        changed: Tensor = points + self.update(known)
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
        self.decoder = perceptron(width, width, self.head.inputs, scale=0.01)

    def config(self) -> dict[str, Any]:
        return super().config() | {"width": self.width, "layers": self.layers}

    def encode(self, told: Told) -> Tensor:
        nodes = self.encoder(told.nodes)
        points, robot = nodes[:, : told.across_index.shape[1]], nodes[:, told.across_index.shape[1] :]
        for each in self.rounds:
            points = each(points, robot, told)
        raw: Tensor = self.decoder(points)
        return raw
