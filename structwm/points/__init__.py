"""Learned dynamics of point clouds: how every point of some objects moves, given how the robot's own surface does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.points.arm_surface import ArmSurface as ArmSurface
    from structwm.points.cloud import PointCloud as PointCloud
    from structwm.points.cloud import PointScene as PointScene
    from structwm.points.cloud import point_cloud as point_cloud
    from structwm.points.cloud_model import CloudModel as CloudModel
    from structwm.points.cloud_tracker import CloudBelief as CloudBelief
    from structwm.points.cloud_tracker import CloudTracker as CloudTracker
    from structwm.points.contact_dynamics import ContactDynamics as ContactDynamics
    from structwm.points.dynamics import PointDynamics as PointDynamics
    from structwm.points.floors import BlendOfHeld as BlendOfHeld
    from structwm.points.floors import ConstantVelocity as ConstantVelocity
    from structwm.points.floors import RigidMotion as RigidMotion
    from structwm.points.floors import Still as Still
    from structwm.points.flow import scene_flow as scene_flow
    from structwm.points.graph_dynamics import GraphDynamics as GraphDynamics
    from structwm.points.losses import PointLoss as PointLoss
    from structwm.points.recordings import CloudRecording as CloudRecording
    from structwm.points.recordings import CloudWindows as CloudWindows
    from structwm.points.robot_surface import Embodied as Embodied
    from structwm.points.robot_surface import HeldPoints as HeldPoints
    from structwm.points.robot_surface import RigidTools as RigidTools
    from structwm.points.robot_surface import RobotSurface as RobotSurface
    from structwm.points.transformer import PointTransformer as PointTransformer

_HOME = {
    "ArmSurface": "arm_surface",
    "BlendOfHeld": "floors",
    "CloudBelief": "cloud_tracker",
    "CloudModel": "cloud_model",
    "CloudRecording": "recordings",
    "CloudTracker": "cloud_tracker",
    "CloudWindows": "recordings",
    "ConstantVelocity": "floors",
    "ContactDynamics": "contact_dynamics",
    "Embodied": "robot_surface",
    "GraphDynamics": "graph_dynamics",
    "HeldPoints": "robot_surface",
    "PointCloud": "cloud",
    "PointDynamics": "dynamics",
    "PointLoss": "losses",
    "PointScene": "cloud",
    "PointTransformer": "transformer",
    "RigidMotion": "floors",
    "RigidTools": "robot_surface",
    "RobotSurface": "robot_surface",
    "Still": "floors",
    "point_cloud": "cloud",
    "scene_flow": "flow",
}

__all__ = [
    "ArmSurface",
    "BlendOfHeld",
    "CloudBelief",
    "CloudModel",
    "CloudRecording",
    "CloudTracker",
    "CloudWindows",
    "ConstantVelocity",
    "ContactDynamics",
    "Embodied",
    "GraphDynamics",
    "HeldPoints",
    "PointCloud",
    "PointDynamics",
    "PointLoss",
    "PointScene",
    "PointTransformer",
    "RigidMotion",
    "RigidTools",
    "RobotSurface",
    "Still",
    "point_cloud",
    "scene_flow",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
