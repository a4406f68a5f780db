"""Learned dynamics of point clouds: how every point of some objects moves, given how the robot's own surface does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.points.cloud import PointCloud as PointCloud
    from structwm.points.cloud import PointScene as PointScene
    from structwm.points.cloud import point_cloud as point_cloud
    from structwm.points.dynamics import PointDynamics as PointDynamics
    from structwm.points.graph_dynamics import GraphDynamics as GraphDynamics
    from structwm.points.losses import PointLoss as PointLoss
    from structwm.points.robot_surface import Embodied as Embodied
    from structwm.points.robot_surface import HeldPoints as HeldPoints
    from structwm.points.robot_surface import RigidTools as RigidTools
    from structwm.points.robot_surface import RobotSurface as RobotSurface
    from structwm.points.transformer import PointTransformer as PointTransformer

_HOME = {
    "Embodied": "robot_surface",
    "GraphDynamics": "graph_dynamics",
    "HeldPoints": "robot_surface",
    "PointCloud": "cloud",
    "PointDynamics": "dynamics",
    "PointLoss": "losses",
    "PointScene": "cloud",
    "PointTransformer": "transformer",
    "RigidTools": "robot_surface",
    "RobotSurface": "robot_surface",
    "point_cloud": "cloud",
}

__all__ = [
    "Embodied",
    "GraphDynamics",
    "HeldPoints",
    "PointCloud",
    "PointDynamics",
    "PointLoss",
    "PointScene",
    "PointTransformer",
    "RigidTools",
    "RobotSurface",
    "point_cloud",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
