"""Learned dynamics of point clouds: `python -m benchmarks.points [--quick] [--only PART ...]`.

`cables`: real cables in motion, beside floors. `boxes`, `chains`, `soft`: pushed on a table in PyBullet, by pushers seen and not seen in training; more boxes
than in training. `planning`: reaching arrangements from RGB-D, beside the simulator as the model, in PyBullet and MuJoCo. `splats`: pictures of what follows
a push, from one RGB-D frame. `latent`: the same with scenes as a few tokens. `speed`: rollouts a second, and 10,000 points. `--quick` evaluates what the full
run trained, on fewer episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import points_cables, points_tabletop
from benchmarks.parts import Part, run_parts
from benchmarks.points_cables import cable_claims
from benchmarks.points_planning import planning_claims
from benchmarks.points_speed import speed_claims
from benchmarks.points_splats import splat_claims
from benchmarks.points_splats_latent import latent_splat_claims
from benchmarks.points_tabletop import study_claims
from benchmarks.points_training import start

PARTS: dict[str, Part] = {
    "cables": cable_claims,
    "boxes": partial(study_claims, "boxes"),
    "chains": partial(study_claims, "chains"),
    "soft": partial(study_claims, "soft blocks"),
    "planning": planning_claims,
    "splats": splat_claims,
    "latent": latent_splat_claims,
    "speed": speed_claims,
}


def begin(quick: bool, chosen: Sequence[str]) -> None:
    """Start the trainings of a full run."""
    jobs: dict[str, Any] = {}
    for part, name in (("boxes", "boxes"), ("chains", "chains"), ("soft", "soft blocks")):
        if part in chosen:
            jobs[name] = partial(points_tabletop.trained, name)
    if "cables" in chosen:
        jobs |= {name: partial(points_cables.trained, name) for name in points_cables.CABLES}
    if not quick and jobs:
        start(jobs)


def concluded(claims: dict[str, Any]) -> dict[str, Any]:
    """With `gain_over_floor_20`, the least over the data sets, and `unseen_pusher_ratio`, the greatest."""
    for name, part, worst in (("gain_over_floor_20", "_gain_over_floor_20", min), ("unseen_pusher_ratio", "_unseen_pusher_ratio", max)):
        known = [value for key, value in claims.items() if part in key and value["value"] is not None]
        if known:
            claims = claims | {name: worst(known, key=lambda value: value["value"])}
    return claims


if __name__ == "__main__":
    run_parts("points", __doc__, PARTS, quick="evaluates what the full run trained", begin=begin, conclude=concluded)
