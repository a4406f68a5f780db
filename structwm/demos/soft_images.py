"""Masks of what deforms: splats on its surface follow the predicted points and are rendered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from structwm.physics.measurements import ImageMeasurement
from structwm.splats.driven import DrivenScene
from structwm.state import Splats
from structwm.transition import Trajectory


@dataclass(frozen=True)
class DrivenImages(ImageMeasurement):
    """Images of a model that has points, but no splats of its own.

    Raises:
        ValueError: as `ImageMeasurement`, and without splats and nodes.
    """

    splats: Splats | None = None  # where the points are at `nodes`
    nodes: Tensor | None = None  # (N, 3) [m]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splats is None or self.nodes is None:
            raise ValueError("DrivenImages needs splats, and the nodes that they follow.")

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        assert self.splats is not None and self.nodes is not None
        return super().residual(replace(trajectory, scene=DrivenScene(trajectory.scene, self.splats, self.nodes)))

    def needs(self) -> frozenset[str]:
        return frozenset({"points"})
