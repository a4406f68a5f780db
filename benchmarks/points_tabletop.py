"""Learned dynamics of several boxes on a table under pushers of other shapes: data, training and errors beside floors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, settings_hash
from benchmarks.parts import all_threads
from structwm.geometry.set_distances import chamfer
from structwm.points import CloudRecording, ConstantVelocity, GraphDynamics, PointLoss, RigidMotion, Still
from structwm.points.cloud_model import CloudModel
from structwm.training import Curriculum, FitSettings, fit, load_model, model_facts, save_model
from structwm.worlds import record_tabletop
from structwm.worlds.tabletop_episodes import TabletopEpisodes
from structwm.worlds.tabletop_views import place_pusher, pusher_points

TOOL = 24  # points of a pusher's surface
CONTEXT, HORIZON = 2, 12  # earlier instants that are seen; steps of the longest rollouts that are trained on
INSTANTS = (1, 5, 20, 50)  # steps after which drift is told
POINTS, EPISODE, STEPS, HELD_OUT, QUICK = (
    32,
    60,
    2000,
    12,
    4,
)  # of each object; steps of an episode, of training; episodes that decide when to stop, of a quick test
SETS: dict[str, tuple[tuple[str, tuple[int, int], int, int], ...]] = {  # pusher, fewest and most boxes, episodes, seed
    "train": (("cylinder", (2, 5), 200, 1), ("plate", (2, 5), 150, 2)),
    "seen": (("cylinder", (2, 5), 24, 11), ("plate", (2, 5), 24, 12)),
    "unseen": (("sphere", (2, 5), 40, 13),),
    "seven": (("cylinder", (7, 7), 24, 14),),
}
TITLES = {"seen": "two to five boxes, pushers as in training", "unseen": "two to five boxes, a ball as the pusher", "seven": "seven boxes"}
KEPT = Path(__file__).parent / "artefacts" / "point_boxes"
FLOORS = {"still": Still, "constant velocity": ConstantVelocity, "rigid motion": RigidMotion}


def recording(episodes: TabletopEpisodes) -> CloudRecording:
    """Recorded pushes as motion of points."""
    paths = zip(episodes.configs, episodes.pusher.numpy(), strict=True)
    robot = torch.from_numpy(np.stack([place_pusher(pusher_points(config, TOOL), path) for config, path in paths])).float()  # type: ignore[arg-type]
    return CloudRecording(episodes.positions, robot, episodes.dt, object_ids=episodes.object_ids.clamp_min(0), mask=episodes.mask)


def joined(parts: Sequence[CloudRecording]) -> CloudRecording:
    """Recordings of runs of one length as one, padded to the most points."""
    most = max(part.positions.shape[2] for part in parts)

    def stacked(name: str, axis: int) -> Tensor:
        values = [getattr(part, name) for part in parts]
        padded = [torch.nn.functional.pad(value, (0, 0) * (value.ndim - axis - 1) + (0, most - value.shape[axis])) for value in values]
        return torch.cat(padded)

    robot = torch.cat([part.robot for part in parts])
    return CloudRecording(stacked("positions", 2), robot, parts[0].dt, object_ids=stacked("object_ids", 1), mask=stacked("mask", 1))


def trained(train: CloudRecording, held_out: CloudRecording, steps: int, **options: Any) -> tuple[GraphDynamics, float]:
    """A graph network, and how long its training took [s]."""
    windows, judged = train.windows(HORIZON, context=CONTEXT), held_out.windows(20, stride=15, context=CONTEXT)
    torch.manual_seed(0)
    size = {"robot_points": TOOL, "dt": train.dt, "context": CONTEXT, "objects": 8, "rigid": "all", "inertia": 0.0, "ground": True, "neighbours": 4}
    model = GraphDynamics(**(size | options))
    model.fit_scales(windows[::37])
    curriculum = Curriculum(first=2, last=HORIZON, reach=0.6)
    settings = FitSettings(steps=steps, batch=16, learning_rate=2e-3, curriculum=curriculum, evaluate_every=max(steps // 8, 1), patience=10)
    begin = time.perf_counter()
    with all_threads():
        fit(model, windows, held_out=judged[:], loss=PointLoss(), settings=settings, progress=False)
    return model, time.perf_counter() - begin


@torch.no_grad()
def drift(model: CloudModel, runs: CloudRecording, steps: int = max(INSTANTS)) -> dict[str, Tensor]:
    """Mean distance of corresponding points, and chamfer distance, (W, steps) [m], of rollouts from several instants; points that are masked do not count."""
    batch = runs.windows(steps, stride=max(steps // 5, 1), context=model.context, first=model.context)[:]
    found, seen, mask = model.rollout(batch.start, batch.actions).states.positions, batch.states.positions, batch.states.mask
    at = [step for step in INSTANTS if step <= steps]
    distance = (found - seen)[:, at].norm(dim=-1)
    return {
        "paired": (distance * mask[:, at]).sum(-1) / mask[:, at].sum(-1),
        "chamfer": chamfer(found[:, at], seen[:, at], mask_a=mask[:, at], mask_b=mask[:, at]),
    }


def show(console: Console, title: str, models: Mapping[str, CloudModel], runs: CloudRecording) -> dict[str, dict[str, Tensor]]:
    """Print drift by model; and give it."""
    table = Table("model", *(f"drift {step}, mm" for step in INSTANTS), *(f"chamfer {step}" for step in INSTANTS), title=title)
    found = {name: drift(model, runs) for name, model in models.items()}
    for name, errors in found.items():
        table.add_row(name, *(f"{1e3 * float(value):.2f}" for kind in ("paired", "chamfer") for value in errors[kind].mean(0)))
    console.print(table)
    return found


def ratio_claim(errors: Tensor, reference: Tensor) -> dict[str, Any]:
    """The ratio of mean errors of two sets of runs."""
    return claim(float(errors.mean() / reference.mean()), n=len(errors))


def recorded(which: str, quick: bool) -> CloudRecording:
    """Recorded pushes in PyBullet: to train on, or of a test, see `SETS`."""
    parts = []
    for pusher, objects, episodes, seed in SETS[which]:
        count = min(episodes, QUICK) if quick else episodes
        parts.append(recording(record_tabletop("bullet", count, EPISODE, seed, points=POINTS, objects=objects, pusher=pusher)))
    return joined(parts)


def config_hash() -> str:
    """Changes when what the kept model rests on does."""
    return settings_hash(TOOL, POINTS, EPISODE, CONTEXT, HORIZON, STEPS, SETS["train"])


def learned(quick: bool, console: Console) -> tuple[GraphDynamics, float]:
    """The model that is kept, or trained and then kept; and how long its training took [s]."""
    if quick:
        facts = model_facts(KEPT)
        if facts["config"] != config_hash():
            raise SystemExit("benchmarks/artefacts/point_boxes was trained with other settings; run without --quick to train it again.")
        return load_model(KEPT), facts["seconds"]
    runs = recorded("train", quick=False)
    order = torch.randperm(len(runs), generator=torch.Generator().manual_seed(0))
    model, seconds = trained(runs[order[HELD_OUT:]], runs[order[:HELD_OUT]], STEPS)
    save_model(model, KEPT, facts={"config": config_hash(), "seconds": seconds})
    console.print(f"boxes: trained in {seconds / 60:.1f} min")
    return model, seconds


def box_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`boxes_gain_over_floor_20`, `unseen_pusher_ratio`, `seven_boxes_gain_over_floor_20`, `boxes_training_s`."""
    if quick and not KEPT.with_suffix(".safetensors").is_file():
        why = "no model is kept; run without --quick, which trains one"
        return {name: claim(None, why=why) for name in ("boxes_gain_over_floor_20", "unseen_pusher_ratio", "seven_boxes_gain_over_floor_20")}
    model, seconds = learned(quick, console)
    claims: dict[str, Any] = {"boxes_training_s": claim(seconds, n=1)}
    place, far, gains = INSTANTS.index(20), {}, {}
    for which in ("seen", "unseen", "seven"):
        runs = recorded(which, quick)
        models = {title: kind(robot_points=TOOL, dt=runs.dt, context=CONTEXT) for title, kind in FLOORS.items()} | {"graph network": model}
        far[which] = found = show(console, TITLES[which], models, runs)
        best = min((found[title]["paired"][:, place] for title in FLOORS), key=lambda errors: float(errors.mean()))
        gains[which] = ratio_claim(best, found["graph network"]["paired"][:, place])
    claims["boxes_gain_over_floor_20"], claims["seven_boxes_gain_over_floor_20"] = gains["seen"], gains["seven"]
    claims["unseen_pusher_ratio"] = ratio_claim(far["unseen"]["graph network"]["paired"][:, place], far["seen"]["graph network"]["paired"][:, place])
    return claims
