"""Roles: who uses a prediction. They know models through the contract only and import no family. Needs no torch until a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.roles.action_filter import ActionFilter
    from structwm.roles.candidate_evaluator import CandidateEvaluator, Ranked
    from structwm.roles.checks import Check, Collision, Reason, Uncertainty, Violation
    from structwm.roles.coverage import Coverage
    from structwm.roles.episode_goals import Goals
    from structwm.roles.evaluation import Comparison, Evaluation, Quantity
    from structwm.roles.evaluator import compare, evaluate
    from structwm.roles.filtered_policy import Decision, FilteredMPC, FilteredPolicy, SafeAction
    from structwm.roles.imagined_env import ImaginedEnv
    from structwm.roles.imagined_single import as_env
    from structwm.roles.novelty import Novelty
    from structwm.roles.ranking import Interval, Ranking, draw_candidates, rank
    from structwm.roles.rl_libraries import as_sb3
    from structwm.roles.state_graph import StateGraph
    from structwm.roles.subgoals import ForecastSubgoals, SubgoalMPC
    from structwm.roles.verdict import Rejection, Verdict

_HOME = {
    "ActionFilter": "action_filter",
    "CandidateEvaluator": "candidate_evaluator",
    "Check": "checks",
    "Collision": "checks",
    "Comparison": "evaluation",
    "Coverage": "coverage",
    "Decision": "filtered_policy",
    "Evaluation": "evaluation",
    "FilteredMPC": "filtered_policy",
    "FilteredPolicy": "filtered_policy",
    "ForecastSubgoals": "subgoals",
    "Goals": "episode_goals",
    "ImaginedEnv": "imagined_env",
    "Interval": "ranking",
    "Novelty": "novelty",
    "Quantity": "evaluation",
    "Ranked": "candidate_evaluator",
    "Ranking": "ranking",
    "Reason": "checks",
    "Rejection": "verdict",
    "SafeAction": "filtered_policy",
    "StateGraph": "state_graph",
    "SubgoalMPC": "subgoals",
    "Uncertainty": "checks",
    "Verdict": "verdict",
    "Violation": "checks",
    "as_env": "imagined_single",
    "as_sb3": "rl_libraries",
    "compare": "evaluator",
    "draw_candidates": "ranking",
    "evaluate": "evaluator",
    "rank": "ranking",
}

__all__ = [
    "ActionFilter",
    "CandidateEvaluator",
    "Check",
    "Collision",
    "Comparison",
    "Coverage",
    "Decision",
    "Evaluation",
    "FilteredMPC",
    "FilteredPolicy",
    "ForecastSubgoals",
    "Goals",
    "ImaginedEnv",
    "Interval",
    "Novelty",
    "Quantity",
    "Ranked",
    "Ranking",
    "Reason",
    "Rejection",
    "SafeAction",
    "StateGraph",
    "SubgoalMPC",
    "Uncertainty",
    "Verdict",
    "Violation",
    "as_env",
    "as_sb3",
    "compare",
    "draw_candidates",
    "evaluate",
    "rank",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
