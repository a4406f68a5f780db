"""A state that is a bag of numbers and shows every view, for what reads views: recordings of it are made by hand."""

from __future__ import annotations

import torch

from structwm.scene import Scene
from structwm.state import Points, State, Tracks
from structwm.transition import Trajectory, recorded_trajectory

SIZE = 14


class Bag(State):
    numbers: torch.Tensor  # (*B, 14)


class BagScene(Scene):
    """Reads four points, two bodies, four keypoints, three atoms and five latent numbers from the same fourteen numbers."""

    def __init__(self, mask=None, visibility=None):
        super().__init__(body_names=("cup", "lid"), atom_names=("on", "clear", "held"))
        self.mask, self.visibility = mask, visibility

    def coordinate_names(self, state):
        return tuple(f"n{place}" for place in range(SIZE))

    def points(self, state):
        mask = None if self.mask is None else self.mask.expand(*state.batch_size, 4)
        return Points(positions=state.numbers[..., :12].unflatten(-1, (4, 3)), mask=mask, batch_size=state.batch_size)

    def poses(self, state):
        poses = state.numbers.unflatten(-1, (2, 7))
        return torch.cat((poses[..., :3], poses[..., 3:] / poses[..., 3:].norm(dim=-1, keepdim=True)), -1)

    def twists(self, state):
        return state.numbers[..., :12].unflatten(-1, (2, 6))

    def tracks(self, state):
        keypoints = state.numbers[..., :12].unflatten(-1, (4, 3))
        visibility = torch.ones_like(keypoints[..., 0]) if self.visibility is None else self.visibility.to(keypoints).expand(keypoints.shape[:-1])
        return Tracks(keypoints=keypoints, visibility=visibility, batch_size=state.batch_size)

    def atoms(self, state):
        return state.numbers[..., :3].sigmoid()

    def embedding(self, state):
        return state.numbers[..., :5]

    def signed_distance(self, state, points):
        return points[..., 2]  # above the floor


def bag(numbers: torch.Tensor, actions: torch.Tensor | None = None, *, scene: Scene | None = None, dt: float = 0.1) -> Trajectory:
    """A recording of numbers (*B, H+1, 14)."""
    return recorded_trajectory(scene or BagScene(), Bag(numbers=numbers, batch_size=numbers.shape[:-1]), dt, actions)
