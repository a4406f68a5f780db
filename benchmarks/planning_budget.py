"""Whether planners keep the time they are given: `python -m benchmarks.planning --only budget`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import fraction_claim
from benchmarks.planning_tasks import VectorModel, quadrotor
from structwm.interfaces import Planner
from structwm.planning import ICEM, MPC, GradientPlanner, Hybrid, SplineMPPI

BUDGETS = (0.005, 0.02, 0.05)  # [s]
SLACK = 1.1  # a plan keeps its budget if it takes no more than this share of it


def planners(budget: float, horizon: int) -> dict[str, Planner]:
    """Planners that would take much longer."""
    many = {"horizon": horizon, "samples": 512, "budget": budget}
    return {
        "SplineMPPI": SplineMPPI(**many, iterations=100),  # type: ignore[arg-type]
        "ICEM": ICEM(**many, iterations=100),  # type: ignore[arg-type]
        "Hybrid": Hybrid(search=SplineMPPI(**many, iterations=4), steps=100),  # type: ignore[arg-type]
        "GradientPlanner": GradientPlanner(horizon=horizon, samples=16, steps=1000, budget=budget),
    }


def budget_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Plans in closed loop for a quadrotor, one problem and eight, under budgets that suffice for a part of the search only."""
    task, plans = quadrotor(), 15 if quick else 60
    assert isinstance(task.model, VectorModel)
    table = Table("planner", "B", *(f"{1000 * budget:g} ms" for budget in BUDGETS), title=f"time of a plan [ms]: median, 95 %; of {plans} in closed loop")
    kept = total = 0
    for name in planners(0.1, 5):
        for problems in (1, 8):
            cells = []
            for budget in BUDGETS:
                planner = planners(budget, task.horizon)[name]
                control = MPC(task.model, planner, task.objective)
                states, seconds = task.start(problems, torch.Generator().manual_seed(0)), []
                for step in range(plans + 3):
                    states = task.dynamics(states, control.act(task.state(states)))
                    assert control.plan is not None
                    if step >= 3:
                        seconds.append(control.plan.seconds)
                times = np.array(seconds)
                kept, total = kept + int((times <= SLACK * budget).sum()), total + plans
                cells.append(f"{1000 * np.median(times):.1f}, {1000 * np.quantile(times, 0.95):.1f}")
            table.add_row(name, str(problems), *cells)
    console.print(table)
    return {"budget_kept": fraction_claim(kept, total)}
