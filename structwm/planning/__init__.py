"""Planners and what they minimise: objectives, constraints, risk measures, sampling and gradient planners, and closed-loop MPC."""

from .action_chunks import ActionChunks
from .action_costs import ActionCost, ActionSmoothness
from .atom_goal import AtomGoal
from .categorical_cem import CategoricalCEM
from .cem import CEM
from .clearance import Clearance, Collision, Spheres
from .constraints import CoordinateLimit, CoordinateTube, ErrorLimit, KeepAway, StretchLimit, Valid, WorkspaceBox
from .coordinate_goals import CoordinateGoal, CoordinateReference
from .disagreement import Disagreement
from .embedding_goal import EmbeddingGoal
from .gaussian import Gaussian, GaussianPlanner
from .goals import GoalObjective
from .gradient import GradientPlanner
from .hybrid import Hybrid
from .icem import ICEM
from .mcts import MCTS
from .motion_limits import ActionRateLimit, SpeedLimit
from .mpc import MPC
from .mppi import MPPI
from .objectives import Duration, Penalty, PredictedReturn, TerminalValue, Uncertainty
from .point_goals import EarthMoverGoal, PointGoal
from .pose_goals import PoseGoal, TwistGoal
from .predictive_sampling import PredictiveSampling
from .risk import ConditionalValueAtRisk, EntropicRisk, Mean, MeanSemideviation, Risk, ValueAtRisk, WorstCase
from .sampling import SamplingPlanner
from .shape_goal import ShapeGoal
from .spline_mppi import SplineMPPI
from .track_goal import TrackGoal

__all__ = [
    "CEM",
    "ICEM",
    "MCTS",
    "MPC",
    "MPPI",
    "ActionChunks",
    "ActionCost",
    "ActionRateLimit",
    "ActionSmoothness",
    "AtomGoal",
    "CategoricalCEM",
    "Clearance",
    "Collision",
    "ConditionalValueAtRisk",
    "CoordinateGoal",
    "CoordinateLimit",
    "CoordinateReference",
    "CoordinateTube",
    "Disagreement",
    "Duration",
    "EarthMoverGoal",
    "EmbeddingGoal",
    "EntropicRisk",
    "ErrorLimit",
    "Gaussian",
    "GaussianPlanner",
    "GoalObjective",
    "GradientPlanner",
    "Hybrid",
    "KeepAway",
    "Mean",
    "MeanSemideviation",
    "Penalty",
    "PointGoal",
    "PoseGoal",
    "PredictedReturn",
    "PredictiveSampling",
    "Risk",
    "SamplingPlanner",
    "ShapeGoal",
    "SpeedLimit",
    "Spheres",
    "SplineMPPI",
    "StretchLimit",
    "TerminalValue",
    "TrackGoal",
    "TwistGoal",
    "Uncertainty",
    "Valid",
    "ValueAtRisk",
    "WorkspaceBox",
    "WorstCase",
]
