"""Roles: who uses a prediction. They know models through the contract only and import no family. Needs no torch until a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.roles.coverage import Coverage
    from structwm.roles.evaluation import Comparison, Evaluation, Quantity
    from structwm.roles.evaluator import compare, evaluate
    from structwm.roles.ranking import Interval, Ranking, draw_candidates, rank

_HOME = {
    "Comparison": "evaluation",
    "Coverage": "coverage",
    "Evaluation": "evaluation",
    "Interval": "ranking",
    "Quantity": "evaluation",
    "Ranking": "ranking",
    "compare": "evaluator",
    "draw_candidates": "ranking",
    "evaluate": "evaluator",
    "rank": "ranking",
}

__all__ = ["Comparison", "Coverage", "Evaluation", "Interval", "Quantity", "Ranking", "compare", "draw_candidates", "evaluate", "rank"]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
