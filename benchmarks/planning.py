"""Planners and the other uses of a prediction: `python -m benchmarks.planning [--quick] [--only PART ...]`.

`overhead`: time of a plan over a loop on plain tensors. `peers`: beside pytorch_mppi and TorchRL. `quality`: cost reached at equal samples, beside the same.
`budget`: whether time budgets are kept. `risk`: CVaR over cousins with uncertain friction, judged in PyBullet and MuJoCo. `filter`: error rates of the action
filter. `learning`: reinforcement learning in an imagined environment beside MPC. `loop`: collecting, calibrating, planning and collecting again.
`--quick` takes fewer sizes, seeds and trials, evaluates what the full run trained, and leaves `budget` and `loop` out.
"""

from __future__ import annotations

from benchmarks.parts import Part, run_parts
from benchmarks.planning_budget import budget_claims
from benchmarks.planning_filter import filter_claims
from benchmarks.planning_learning import policy_claims
from benchmarks.planning_loop import loop_claims
from benchmarks.planning_overhead import overhead_claims
from benchmarks.planning_peers import peer_claims
from benchmarks.planning_quality import quality_claims
from benchmarks.planning_risk import risk_claims

PARTS: dict[str, Part] = {
    "overhead": overhead_claims,
    "peers": peer_claims,
    "quality": quality_claims,
    "budget": budget_claims,
    "risk": risk_claims,
    "filter": filter_claims,
    "learning": policy_claims,
    "loop": loop_claims,
}


if __name__ == "__main__":
    run_parts("planning", __doc__, PARTS, quick="fewer sizes, seeds and trials", untimed=("quality", "risk", "filter", "learning"), long=("budget", "loop"))
