"""Risk-aware planning: `python -m benchmarks.planning_risk [--quick]`.

A box is to be pushed, let go, and to come to rest at a goal 30 cm beyond the pusher's reach; 6 cm behind the goal the table ends. How far it slides depends on
friction with the table, which planners know to 30 %: they plan with cousins, models whose friction is drawn like that of the trials. What is compared differs
in nothing but how costs and constraint violations of the cousins become one: their mean, the mean of the worst tenth (CVaR), the worst. Trials run in PyBullet
and in MuJoCo, with the same frictions and starts for all; a box whose centre passes the edge fell. Beside them: a single model of the mean friction, with as
many rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, fraction_claim
from benchmarks.parts import run_parts
from benchmarks.planning_slides import LINE, Outcomes, SlideState, SlideTwin, Trials, cousins, run_trials
from structwm.planning import CEM, ConditionalValueAtRisk, Mean, Risk, WorstCase
from structwm.transition import TransitionModel

ENGINES = {"bullet": "PyBullet", "mujoco": "MuJoCo"}
MEMBERS, SAMPLES, HORIZON = 64, 64, 16
QUICK, FULL = (1, 12), (4, 50)  # groups of trials that share their cousins, and trials of each
LEVEL = 0.9  # of CVaR
Model = TransitionModel[SlideState]
ARMS: dict[str, tuple[Risk, int]] = {"mean": (Mean(), MEMBERS), "CVaR": (ConditionalValueAtRisk(LEVEL), MEMBERS)}  # risk and members
MORE: dict[str, tuple[Risk, int]] = {"worst case": (WorstCase(), MEMBERS), "single model": (Mean(), 1)}


def risk_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`cvar_failure_ratio`, failure rates by engine, and what caution costs."""
    groups, count = QUICK if quick else FULL
    arms = ARMS if quick else ARMS | MORE
    claims: dict[str, Any] = {}
    ratios: list[dict[str, Any]] = []
    for engine, title in ENGINES.items():
        found = {name: run_arm(engine, risk, members, groups, count) for name, (risk, members) in arms.items()}
        show(found, f"{groups * count} trials in {title}, {SAMPLES * MEMBERS} rollouts of {HORIZON} steps an iteration", console)
        mean, tail = (fell(found[name]) for name in ARMS)
        suffix = "" if engine == "bullet" else "_second_engine"
        claims |= {f"{name}_failures{suffix}": fraction_claim(int(part.sum()), len(part)) for name, part in (("mean", mean), ("cvar", tail))}
        price = short(found["CVaR"]) - short(found["mean"])
        claims[f"cvar_price_m{suffix}"] = paired(lambda at, price=price: float(price[at].mean()), len(price))
        ratios.append(paired(lambda at, mean=mean, tail=tail: float((mean[at].sum() + 0.5) / (tail[at].sum() + 0.5)), len(mean)))
    return {"cvar_failure_ratio": min(ratios, key=lambda ratio: float(ratio["value"]))} | claims


def run_arm(engine: str, risk: Risk, members: int, groups: int, count: int) -> list[Outcomes]:
    """The trials of all groups, by one way of planning."""
    planner = CEM(horizon=HORIZON, samples=SAMPLES * MEMBERS // members, iterations=3, elites=8 * MEMBERS // members, knots=7, risk=risk)
    found = []
    for group in range(groups):
        model: Model = SlideTwin() if members == 1 else cousins(members, seed=group)
        found.append(run_trials(engine, Trials.draw(count, seed=1000 + group), model, planner, seed=count * group))
    return found


def fell(parts: list[Outcomes]) -> NDArray[np.bool_]:
    """Which boxes fell, over all groups."""
    return np.concatenate([part.fell for part in parts])


def short(parts: list[Outcomes]) -> NDArray[np.float64]:
    """How far from the goal each box ended [m]; one that fell, as far as where it was let go."""
    place = np.concatenate([part.place for part in parts])
    return np.where(fell(parts), -LINE, np.abs(place))


def paired(statistic: Callable[[NDArray[np.int64]], float], count: int, *, draws: int = 2000) -> dict[str, Any]:
    """A statistic of trials (by their numbers), with a bootstrap interval over trials."""
    rng = np.random.default_rng(0)
    low, high = np.quantile([statistic(rng.integers(count, size=count)) for _ in range(draws)], (0.05, 0.95))
    return claim(statistic(np.arange(count)), n=count, low=float(low), high=float(high))


def show(found: dict[str, list[Outcomes]], title: str, console: Console) -> None:
    """A row for each way of planning."""
    table = Table("planned with", "fell", "90 %", "mm off, the others", "mm off, a fall as 300", "mm off, worst tenth", "seconds", "ms a plan", title=title)
    for name, parts in found.items():
        lost, away = fell(parts), 1e3 * short(parts)
        rate = fraction_claim(int(lost.sum()), len(lost))
        seconds = np.concatenate([part.seconds for part in parts])
        tail = np.sort(away)[-max(len(away) // 10, 1) :]
        cells = [f"{away[~lost].mean():.0f}", f"{away.mean():.0f}", f"{tail.mean():.0f}", f"{np.median(seconds):.1f}"]
        ms = 1e3 * float(np.median([plan for part in parts for plan in part.plans]))
        table.add_row(name, f"{rate['value']:.3f}", f"{rate['low']:.3f} to {rate['high']:.3f}", *cells, f"{ms:.0f}")
    console.print(table)
    turned = max(float(part.turned.max()) for parts in found.values() for part in parts)
    console.print(
        f"boxes turned by {np.degrees(turned):.4f} degrees at most; {torch.get_num_threads()} thread(s), plans of {len(parts[0].place)} problems at once"
    )


if __name__ == "__main__":
    run_parts("planning_risk", __doc__, {"risk": risk_claims}, quick=f"{QUICK[0] * QUICK[1]} trials an engine, and the two risks of the claim only")
