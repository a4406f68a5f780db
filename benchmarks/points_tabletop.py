"""Learned dynamics of boxes, chains and soft blocks on a table under pushers of several shapes: data, training and errors beside floors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, settings_hash
from benchmarks.points_training import finished
from structwm.geometry.set_distances import chamfer
from structwm.points import CloudRecording, ConstantVelocity, ContactDynamics, GraphDynamics, PointLoss, RigidMotion, Still
from structwm.points.cloud_model import CloudModel
from structwm.training import Curriculum, FitSettings, fit, load_model, model_facts, save_model
from structwm.worlds import CylinderPusher, cloud_recording, record_soft_pushes, record_tabletop
from structwm.worlds.tabletop_config import AnyPusher

TOOL = 64  # points of a pusher's surface
CONTEXT = 2  # earlier instants that are seen
INSTANTS = (1, 5, 20, 50)  # steps after which drift is told
DENSER = 3  # times as many points are recorded, to choose from
POINTS, EPISODE = 64, 60  # of each box; steps of an episode
NOISE = 5e-4  # of positions of what bends, in training [m]
HELD_OUT, QUICK = 12, 4  # episodes that decide when to stop; of a test in a quick run
LEARNED = "learned"
FLOORS = {"still": Still, "constant velocity": ConstantVelocity, "rigid motion": RigidMotion}
ARTEFACTS = Path(__file__).parent / "artefacts"
KEPT = ARTEFACTS / "point_boxes"


@dataclass(frozen=True)
class Pushes:
    """Episodes of `record_tabletop`, or of soft blocks."""

    pusher: str | AnyPusher
    episodes: int
    seed: int
    kind: Literal["boxes", "chain", "soft"] = "boxes"
    objects: tuple[int, int] | None = None
    points: int = POINTS
    tool: int = TOOL

    def record(self, *, quick: bool = False) -> CloudRecording:
        """In PyBullet."""
        count = min(self.episodes, QUICK) if quick else self.episodes
        workers = min(count, os.cpu_count() or 1) if multiprocessing.parent_process() is None else 1
        if self.kind == "soft":
            found = record_soft_pushes(count, EPISODE, self.seed, points=DENSER * self.points, pusher=self.pusher, workers=workers)
            return cloud_recording(found, points=self.points, robot_points=self.tool)
        settings: dict[str, Any] = {"points": DENSER * self.points, "objects": self.objects, "kind": self.kind, "pusher": self.pusher, "workers": workers}
        return cloud_recording(record_tabletop("bullet", count, EPISODE, self.seed, **settings), points=self.points, robot_points=self.tool)


@dataclass(frozen=True)
class Phase:
    """A part of a training."""

    steps: int
    batch: int
    horizon: int  # steps of the longest rollouts
    learning_rate: float


@dataclass(frozen=True)
class Study:
    """Objects of a kind: what is trained on, what with, and what is judged on."""

    kept: Path
    network: type[CloudModel]
    train: tuple[Pushes, ...]
    tests: dict[str, tuple[Pushes, ...]]  # `unseen` on the tables of `seen`, by another pusher: a few pushes that are hard to foresee decide means
    phases: tuple[Phase, ...]
    options: dict[str, Any]  # of the network
    noise: float = 0.0  # of positions, in training [m]
    optimizer: Literal["adamw", "muon"] = "muon"

    @property
    def config(self) -> str:
        """Changes when what the kept model rests on does."""
        parts, phases = ([asdict(value) for value in values] for values in (self.train, self.phases))
        return settings_hash(DENSER, self.noise, self.optimizer, EPISODE, CONTEXT, self.network.__name__, phases, parts, self.options)

    def untrained(self) -> Any:
        """The network for control periods of a tenth of a second."""
        torch.manual_seed(0)
        return self.network(robot_points=self.train[0].tool, dt=0.1, context=CONTEXT, objects=8, **self.options)


def _alike(kind: Literal["chain", "soft"], points: int, tool: int, episodes: int) -> dict[str, Any]:
    """One object of a kind; cylinders in training, balls besides in a test, on the same tables."""
    train = Pushes("cylinder", episodes, 1, kind, points=points, tool=tool)
    seen = replace(train, episodes=48, seed=11)
    return {"train": (train,), "tests": {"seen": (seen,), "unseen": (replace(seen, pusher="sphere"),)}}


LOW = CylinderPusher(0.016, 0.02)  # beside the cylinder of the tests, so that a pusher's size is not taken for granted
SOFT: dict[str, Any] = {"inertia": 0.0, "ground": True, "neighbours": 8}
STUDIES = {
    "boxes": Study(
        KEPT,
        ContactDynamics,
        (Pushes("cylinder", 130, 1), Pushes(LOW, 90, 3), Pushes("plate", 130, 2)),
        {
            "seen": (Pushes("cylinder", 24, 11), Pushes("plate", 24, 12)),
            "unseen": (Pushes("sphere", 24, 11), Pushes("sphere", 24, 12)),
            "seven": (Pushes("cylinder", 24, 14, objects=(7, 7)),),
        },
        (Phase(900, 64, 3, 2e-3), Phase(500, 16, 12, 1e-3)),
        {},
    ),
    "chains": Study(
        ARTEFACTS / "point_chains",
        ContactDynamics,
        phases=(Phase(600, 64, 3, 2e-3), Phase(600, 16, 12, 1e-3)),
        options={"parts": 0.04},
        **_alike("chain", 128, TOOL, 200),
    ),
    "soft blocks": Study(
        ARTEFACTS / "point_soft",
        GraphDynamics,
        phases=(Phase(1000, 16, 12, 2e-3),),
        options=SOFT,
        noise=NOISE,
        optimizer="adamw",
        **_alike("soft", 96, 24, 120),
    ),
}
TITLES = {"seen": "pushers as in training", "unseen": "a ball as the pusher, not seen in training", "seven": "seven of them, two to five in training"}


def joined(parts: Sequence[CloudRecording]) -> CloudRecording:
    """Recordings of runs of one length as one, padded to the most points."""
    most = max(part.positions.shape[2] for part in parts)

    def stacked(name: str, axis: int) -> Tensor:
        values = [getattr(part, name) for part in parts]
        padded = [torch.nn.functional.pad(value, (0, 0) * (value.ndim - axis - 1) + (0, most - value.shape[axis])) for value in values]
        return torch.cat(padded)

    robot = torch.cat([part.robot for part in parts])
    return CloudRecording(stacked("positions", 2), robot, parts[0].dt, object_ids=stacked("object_ids", 1), mask=stacked("mask", 1))


def trained(name: str) -> CloudModel:
    """The network of a study, after its training."""
    study = STUDIES[name]
    runs = joined([part.record() for part in study.train])
    order = torch.randperm(len(runs), generator=torch.Generator().manual_seed(0))
    train, held_out = runs[order[HELD_OUT:]], runs[order[:HELD_OUT]]
    judged = held_out.windows(20, stride=15, context=CONTEXT)
    model = study.untrained()
    model.fit_scales(train.windows(12, context=CONTEXT)[::37])
    for phase in study.phases:
        curriculum = Curriculum(first=2, last=phase.horizon, reach=0.6)
        settings = FitSettings(
            steps=phase.steps,
            batch=phase.batch,
            optimizer=study.optimizer,
            learning_rate=phase.learning_rate,
            curriculum=curriculum,
            evaluate_every=phase.steps // 8,
            patience=10,
        )
        windows = train.windows(phase.horizon, context=CONTEXT)
        fit(model, windows, held_out=judged[:], loss=PointLoss(noise=study.noise), settings=settings, progress=False)
    return model  # type: ignore[no-any-return]


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


def learned(name: str, quick: bool, console: Console) -> tuple[CloudModel, float]:
    """The model that is kept, or trained and then kept; and how long recording and training took [s].

    Raises:
        SystemExit: in a quick run, where the model that is kept was trained with other settings.
    """
    study = STUDIES[name]
    if quick:
        facts = model_facts(study.kept)
        if facts["config"] != study.config:
            raise SystemExit(f"benchmarks/artefacts/{study.kept.name} was trained with other settings; run without --quick to train it again.")
        return load_model(study.kept), facts["seconds"]
    weights, seconds = finished(name)
    model = study.untrained()
    model.load_state_dict({key: torch.as_tensor(value) for key, value in weights.items()})
    save_model(model, study.kept, facts={"config": study.config, "seconds": seconds})
    console.print(f"{study.kept.name}: recorded and trained in {seconds / 60:.1f} min on one core")
    return model, seconds


def study_claims(name: str, quick: bool, console: Console) -> dict[str, Any]:
    """`NAME_gain_over_floor_20`, `NAME_unseen_pusher_ratio`, `NAME_training_s`, and of boxes `boxes_seven_gain_over_floor_20`."""
    study, key = STUDIES[name], name.replace(" ", "_")
    if quick and not study.kept.with_suffix(".safetensors").is_file():
        return {f"{key}_gain_over_floor_20": claim(None, why="no model is kept; run without --quick, which trains one")}
    model, seconds = learned(name, quick, console)
    claims: dict[str, Any] = {f"{key}_training_s": claim(seconds, n=1)}
    place, far, gains = INSTANTS.index(20), {}, {}
    for which, parts in study.tests.items():
        runs = joined([part.record(quick=quick) for part in parts])
        floors = {title: kind(robot_points=runs.robot.shape[2], dt=runs.dt, context=CONTEXT) for title, kind in FLOORS.items()}
        far[which] = found = show(console, f"{name}: {TITLES[which]}", floors | {LEARNED: model}, runs)
        best = min((found[title]["paired"][:, place] for title in FLOORS), key=lambda errors: float(errors.mean()))
        gains[which] = ratio_claim(best, found[LEARNED]["paired"][:, place])
    claims[f"{key}_gain_over_floor_20"] = gains["seen"]
    claims[f"{key}_unseen_pusher_ratio"] = ratio_claim(far["unseen"][LEARNED]["paired"][:, place], far["seen"][LEARNED]["paired"][:, place])
    if "seven" in gains:
        claims[f"{key}_seven_gain_over_floor_20"] = gains["seven"]
    return claims
