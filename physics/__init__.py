"""Physics twins and their calibration: `structwm.physics`. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if not __name__.startswith("structwm."):
    raise ImportError(f"import structwm.{__name__} instead of {__name__}: as a top-level package every class would exist twice.")

if TYPE_CHECKING:
    from structwm.physics.appearance import surface_splats
    from structwm.physics.assimilation import Trust, estimate_states
    from structwm.physics.bullet_twin import BulletTwin
    from structwm.physics.calibration import Calibration, Settings, calibrate
    from structwm.physics.cloud_measurement import CloudMeasurement
    from structwm.physics.experiment import suggest_actions
    from structwm.physics.family import calibrate_family
    from structwm.physics.limit_surface import EllipsoidSupport, PressureSupport, Support
    from structwm.physics.measurements import ImageMeasurement, Measurement, PointMeasurement, PoseMeasurement, TrackMeasurement
    from structwm.physics.mujoco_twin import MujocoTwin
    from structwm.physics.newton_soft import NewtonSoftTwin
    from structwm.physics.newton_twin import NewtonTwin
    from structwm.physics.parameters import Parameter, ParameterSpace
    from structwm.physics.particle_correction import ParticleCorrection
    from structwm.physics.particle_fit import FittedParticleResidual, ResidualSettings, fit_particle_residual
    from structwm.physics.particle_residual import ParticleResidual, ParticleResidualState
    from structwm.physics.particle_scene import ParticleState
    from structwm.physics.posterior import Evidence, Prior
    from structwm.physics.push_correction import PushCorrection
    from structwm.physics.push_intervals import TwinRegions, out_of_fold_errors
    from structwm.physics.push_learning import LearnedPushes, hybrid_push_model, learned_push_model, unseen_push_model
    from structwm.physics.push_novelty import explanation_features, transition_features
    from structwm.physics.push_proposals import PushProposals
    from structwm.physics.pushing import PushScene, PushState, PushTwin
    from structwm.physics.recorded_pushes import contact_gap, final_pose, push_recording, push_twin, push_windows
    from structwm.physics.recording import Recording, join
    from structwm.physics.rigid import RigidTwin
    from structwm.physics.rigid_runs import RigidRun, rigid_recording
    from structwm.physics.rigid_scene import RigidScene, RigidState
    from structwm.physics.rigid_world import (
        GROUND,
        Actuator,
        Body,
        BoxShape,
        CapsuleShape,
        ConvexShape,
        Fixture,
        Geometry,
        Joint,
        Material,
        PlaneShape,
        RigidWorld,
        SphereShape,
        box_inertia,
        drive,
    )
    from structwm.physics.robot_points import RobotPoints, robot_points
    from structwm.physics.rod_scene import Rod, RodScene, RodState, material_curvature
    from structwm.physics.rod_tracks import rod_recording, transfer_rod
    from structwm.physics.rod_twin import RodTwin
    from structwm.physics.scene_files import read_world, write_world
    from structwm.physics.soft_world import SoftBody, SoftScene, SoftWorld
    from structwm.physics.spring_body import SpringBody, SpringScene
    from structwm.physics.spring_fit import SpringFit, fit_springs, topology_prior
    from structwm.physics.spring_forces import SpringForces
    from structwm.physics.spring_forces_fit import FittedSpringForces, fit_spring_forces
    from structwm.physics.spring_observations import spring_recording
    from structwm.physics.spring_registration import BodyRegistration
    from structwm.physics.spring_runs import spring_tracks
    from structwm.physics.spring_transfer import Transfer, transfer
    from structwm.physics.spring_twin import SpringTwin
    from structwm.physics.twin import Twin
    from structwm.physics.world_twin import WorldTwin

_HOME = {
    "Actuator": "rigid_world",
    "Body": "rigid_world",
    "BodyRegistration": "spring_registration",
    "BoxShape": "rigid_world",
    "BulletTwin": "bullet_twin",
    "Calibration": "calibration",
    "CapsuleShape": "rigid_world",
    "CloudMeasurement": "cloud_measurement",
    "ConvexShape": "rigid_world",
    "EllipsoidSupport": "limit_surface",
    "Evidence": "posterior",
    "FittedParticleResidual": "particle_fit",
    "FittedSpringForces": "spring_forces_fit",
    "Fixture": "rigid_world",
    "GROUND": "rigid_world",
    "Geometry": "rigid_world",
    "ImageMeasurement": "measurements",
    "Joint": "rigid_world",
    "LearnedPushes": "push_learning",
    "Material": "rigid_world",
    "Measurement": "measurements",
    "MujocoTwin": "mujoco_twin",
    "NewtonSoftTwin": "newton_soft",
    "NewtonTwin": "newton_twin",
    "Parameter": "parameters",
    "ParameterSpace": "parameters",
    "ParticleCorrection": "particle_correction",
    "ParticleResidual": "particle_residual",
    "ParticleResidualState": "particle_residual",
    "ParticleState": "particle_scene",
    "PlaneShape": "rigid_world",
    "PointMeasurement": "measurements",
    "PoseMeasurement": "measurements",
    "PressureSupport": "limit_surface",
    "Prior": "posterior",
    "PushCorrection": "push_correction",
    "PushProposals": "push_proposals",
    "PushScene": "pushing",
    "PushState": "pushing",
    "PushTwin": "pushing",
    "Recording": "recording",
    "ResidualSettings": "particle_fit",
    "RigidRun": "rigid_runs",
    "RigidScene": "rigid_scene",
    "RigidState": "rigid_scene",
    "RigidTwin": "rigid",
    "RigidWorld": "rigid_world",
    "RobotPoints": "robot_points",
    "Rod": "rod_scene",
    "RodScene": "rod_scene",
    "RodState": "rod_scene",
    "RodTwin": "rod_twin",
    "Settings": "calibration",
    "SoftBody": "soft_world",
    "SoftScene": "soft_world",
    "SoftWorld": "soft_world",
    "SphereShape": "rigid_world",
    "SpringBody": "spring_body",
    "SpringFit": "spring_fit",
    "SpringForces": "spring_forces",
    "SpringScene": "spring_body",
    "SpringTwin": "spring_twin",
    "Support": "limit_surface",
    "TrackMeasurement": "measurements",
    "Transfer": "spring_transfer",
    "Trust": "assimilation",
    "Twin": "twin",
    "TwinRegions": "push_intervals",
    "WorldTwin": "world_twin",
    "box_inertia": "rigid_world",
    "calibrate": "calibration",
    "calibrate_family": "family",
    "contact_gap": "recorded_pushes",
    "drive": "rigid_world",
    "estimate_states": "assimilation",
    "explanation_features": "push_novelty",
    "final_pose": "recorded_pushes",
    "fit_particle_residual": "particle_fit",
    "fit_spring_forces": "spring_forces_fit",
    "fit_springs": "spring_fit",
    "hybrid_push_model": "push_learning",
    "join": "recording",
    "learned_push_model": "push_learning",
    "material_curvature": "rod_scene",
    "out_of_fold_errors": "push_intervals",
    "push_recording": "recorded_pushes",
    "push_twin": "recorded_pushes",
    "push_windows": "recorded_pushes",
    "read_world": "scene_files",
    "rigid_recording": "rigid_runs",
    "robot_points": "robot_points",
    "rod_recording": "rod_tracks",
    "spring_recording": "spring_observations",
    "spring_tracks": "spring_runs",
    "suggest_actions": "experiment",
    "surface_splats": "appearance",
    "topology_prior": "spring_fit",
    "transfer": "spring_transfer",
    "transfer_rod": "rod_tracks",
    "transition_features": "push_novelty",
    "unseen_push_model": "push_learning",
    "write_world": "scene_files",
}

__all__ = [
    "GROUND",
    "Actuator",
    "Body",
    "BodyRegistration",
    "BoxShape",
    "BulletTwin",
    "Calibration",
    "CapsuleShape",
    "CloudMeasurement",
    "ConvexShape",
    "EllipsoidSupport",
    "Evidence",
    "FittedParticleResidual",
    "FittedSpringForces",
    "Fixture",
    "Geometry",
    "ImageMeasurement",
    "Joint",
    "LearnedPushes",
    "Material",
    "Measurement",
    "MujocoTwin",
    "NewtonSoftTwin",
    "NewtonTwin",
    "Parameter",
    "ParameterSpace",
    "ParticleCorrection",
    "ParticleResidual",
    "ParticleResidualState",
    "ParticleState",
    "PlaneShape",
    "PointMeasurement",
    "PoseMeasurement",
    "PressureSupport",
    "Prior",
    "PushCorrection",
    "PushProposals",
    "PushScene",
    "PushState",
    "PushTwin",
    "Recording",
    "ResidualSettings",
    "RigidRun",
    "RigidScene",
    "RigidState",
    "RigidTwin",
    "RigidWorld",
    "RobotPoints",
    "Rod",
    "RodScene",
    "RodState",
    "RodTwin",
    "Settings",
    "SoftBody",
    "SoftScene",
    "SoftWorld",
    "SphereShape",
    "SpringBody",
    "SpringFit",
    "SpringForces",
    "SpringScene",
    "SpringTwin",
    "Support",
    "TrackMeasurement",
    "Transfer",
    "Trust",
    "Twin",
    "TwinRegions",
    "WorldTwin",
    "box_inertia",
    "calibrate",
    "calibrate_family",
    "contact_gap",
    "drive",
    "estimate_states",
    "explanation_features",
    "final_pose",
    "fit_particle_residual",
    "fit_spring_forces",
    "fit_springs",
    "hybrid_push_model",
    "join",
    "learned_push_model",
    "material_curvature",
    "out_of_fold_errors",
    "push_recording",
    "push_twin",
    "push_windows",
    "read_world",
    "rigid_recording",
    "robot_points",
    "rod_recording",
    "spring_recording",
    "spring_tracks",
    "suggest_actions",
    "surface_splats",
    "topology_prior",
    "transfer",
    "transfer_rod",
    "transition_features",
    "unseen_push_model",
    "write_world",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
