"""Planners and what they minimise: objectives, constraints, risk measures, sampling planners and closed-loop MPC."""

from .cem import CEM
from .constraints import CoordinateLimit, KeepAway, StretchLimit, Valid
from .mpc import MPC
from .mppi import MPPI
from .objectives import ActionCost, ActionSmoothness, CoordinateGoal, GoalObjective, PointGoal, PoseGoal, PredictedReturn
from .risk import ConditionalValueAtRisk, Mean, Risk, ValueAtRisk, WorstCase
from .sampling import Gaussian, SamplingPlanner
from .shape_goal import ShapeGoal

__all__ = [
    "CEM",
    "MPC",
    "MPPI",
    "ActionCost",
    "ActionSmoothness",
    "ConditionalValueAtRisk",
    "CoordinateGoal",
    "CoordinateLimit",
    "Gaussian",
    "GoalObjective",
    "KeepAway",
    "Mean",
    "PointGoal",
    "PoseGoal",
    "PredictedReturn",
    "Risk",
    "SamplingPlanner",
    "ShapeGoal",
    "StretchLimit",
    "Valid",
    "ValueAtRisk",
    "WorstCase",
]
