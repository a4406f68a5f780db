"""Goals in a latent space."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cosine_similarity

from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal


class EmbeddingGoal(GoalObjective):
    """Distance of the predicted embedding from that of a goal, for example of a goal image.

    Args:
        embedding: (D,) or (B, D).
        distance: `squared`, the squared L2 distance; `cosine`, one minus the cosine of the angle between them.

    Raises:
        ValueError: on another shape, numbers that are not finite, or a zero vector with `cosine`.
    """

    needs = frozenset({"embedding"})
    per_state = True

    def __init__(self, embedding: Tensor, *, distance: Literal["squared", "cosine"] = "squared", stage: float = 1.0, terminal: float = 1.0) -> None:
        super().__init__(stage=stage, terminal=terminal)
        if embedding.ndim not in (1, 2) or not embedding.is_floating_point() or not bool(embedding.isfinite().all()):
            raise ValueError(f"EmbeddingGoal needs a finite embedding (D,) or (B, D), got {embedding.dtype} {tuple(embedding.shape)}.")
        if distance not in ("squared", "cosine") or (distance == "cosine" and not bool(embedding.any(-1).all())):
            raise ValueError(f"EmbeddingGoal knows the distances squared and, for embeddings that are not zero, cosine, got {distance!r}.")
        self.embedding, self.distance = embedding, distance

    def error(self, trajectory: Trajectory) -> Tensor:
        predicted = trajectory.embedding()
        goal = align_goal("EmbeddingGoal", self.embedding.to(predicted), 1, trajectory.batch_shape)
        if predicted.shape[-1] != goal.shape[-1]:
            raise ValueError(f"EmbeddingGoal has {goal.shape[-1]} dimensions, got a prediction of {predicted.shape[-1]}.")
        if self.distance == "cosine":
            return 1 - cosine_similarity(predicted, goal.expand_as(predicted), dim=-1)
        return (predicted - goal).square().sum(-1)
