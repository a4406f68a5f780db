"""Planners and what they minimise: objectives, constraints, risk measures, sampling planners and closed-loop MPC."""

from .cem import CEM
from .constraints import CoordinateLimit, KeepAway, Valid
from .mpc import MPC
from .mppi import MPPI
from .objectives import ActionCost, ActionSmoothness, CoordinateGoal, GoalObjective, PointGoal, PoseGoal, PredictedReturn
from .risk import ConditionalValueAtRisk, Mean, Risk, ValueAtRisk, WorstCase
from .sampling import Gaussian, SamplingPlanner

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
    "Valid",
    "ValueAtRisk",
    "WorstCase",
]
