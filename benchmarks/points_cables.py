"""Learned dynamics on real cables: vertices as points, both ends held, judged by the protocol of DEFORM and by drift from any instant, beside floors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from benchmarks.points_training import finished
from structwm.data import read_rope_motion
from structwm.data.errors import DataUnavailable
from structwm.geometry.set_distances import chamfer
from structwm.points import BlendOfHeld, CloudRecording, ConstantVelocity, GraphDynamics, PointLoss, RigidMotion, Still
from structwm.points.cloud_model import CloudModel
from structwm.training import Curriculum, FitSettings, fit

CABLES = ("DLO1", "DLO2")
DT, CONTEXT, HORIZON = 0.01, 3, 40  # [s]; earlier instants that are seen; steps of the longest rollouts that are trained on
HELD_OUT = 4  # training runs that decide when to stop
STEPS = 1600  # of training
INSTANTS = (1, 5, 20, 50)  # steps after which drift is told
FLOORS = {"still": Still, "constant velocity": ConstantVelocity, "rigid motion": RigidMotion, "blend of the ends": BlendOfHeld}
UNTRAINED = "the recordings bear no licence, so no weights are kept, and training takes minutes; run without --quick"
SIZE: dict[str, Any] = {"robot_points": 4, "dt": DT, "context": CONTEXT, "features": 1, "neighbours": 6}


def recording(runs: np.ndarray) -> CloudRecording:
    """Runs (R, T, V, 3) of a cable whose first two and last two vertices are held; at rest it is straight, each edge as long as in the median."""
    positions = torch.tensor(runs, dtype=torch.float32)
    vertices = positions.shape[2]
    ends = torch.tensor([0, 1, vertices - 2, vertices - 1])
    edges = positions.diff(dim=2).norm(dim=-1).flatten(0, 1).median(0).values
    along = torch.cat((torch.zeros(1), edges.cumsum(0)))
    held = torch.full((vertices,), -1).index_copy(0, ends, torch.arange(4))
    rest = torch.nn.functional.pad(along.unsqueeze(-1), (0, 2))
    return CloudRecording(positions, positions[:, :, ends], DT, rest=rest, held=held, features=(2 * along / along[-1] - 1).unsqueeze(-1))


def network() -> GraphDynamics:
    """An untrained graph network for a cable."""
    torch.manual_seed(0)
    return GraphDynamics(touching=2, **SIZE)


def trained(name: str) -> GraphDynamics:
    """The network of a cable, after its training."""
    runs = recording(read_rope_motion(name).train)
    train, held_out = runs[:-HELD_OUT].windows(HORIZON, context=CONTEXT), runs[-HELD_OUT:].windows(200, stride=100, context=CONTEXT)
    model = network()
    model.fit_scales(train[::97])
    curriculum = Curriculum(first=3, last=HORIZON, reach=0.5)
    settings = FitSettings(steps=STEPS, batch=32, learning_rate=2e-3, curriculum=curriculum, evaluate_every=STEPS // 10, patience=10)
    fit(model, train, held_out=held_out[:], loss=PointLoss(), settings=settings, progress=False)
    return model


@torch.no_grad()
def protocol_errors(model: CloudModel, runs: CloudRecording) -> Tensor:
    """DEFORM's: of each run (R,), the mean absolute error over coordinates, vertices and frames [m], of 498 frames from the first two."""
    horizon = runs.positions.shape[1] - 2
    start = runs[:].states(torch.arange(len(runs)), torch.ones(len(runs), 1, dtype=torch.int64), model.context)[:, 0]
    actions = runs.robot[:, 1:].diff(dim=1).flatten(-2)
    found = model.rollout(start, actions).states.positions[:, 1:]
    assert found.shape[1] == horizon
    return (found - runs.positions[:, 2:]).abs().mean((1, 2, 3))


@torch.no_grad()
def drift(model: CloudModel, runs: CloudRecording) -> dict[str, Tensor]:
    """Mean distance of corresponding points, and chamfer distance, (W, steps) [m], of windows that start anywhere."""
    batch = runs.windows(max(INSTANTS), stride=25, context=model.context, first=model.context)[:]
    found, seen = model.rollout(batch.start, batch.actions).states.positions, batch.states.positions
    at = list(INSTANTS)
    return {"paired": (found - seen)[:, at].norm(dim=-1).mean(-1), "chamfer": chamfer(found[:, at], seen[:, at])}


def cable_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`rope_l1_m_dlo1`, `rope_l1_m_dlo2`, `rope_gain_over_floor_20_dlo1`, `..._dlo2`, `rope_training_s`."""
    claims: dict[str, Any] = {}
    for name in CABLES:
        try:
            runs = recording(read_rope_motion(name).test)
        except DataUnavailable as error:
            return {f"rope_l1_m_{cable.lower()}": claim(None, why=str(error)) for cable in CABLES}
        floors = {title: kind(**SIZE) for title, kind in FLOORS.items()}
        if quick:
            claims[f"rope_l1_m_{name.lower()}"] = claim(None, why=UNTRAINED)
            show(console, name, floors, runs)
            continue
        weights, seconds = finished(name)
        learned = network()
        learned.load_state_dict({key: torch.as_tensor(value) for key, value in weights.items()})
        errors, far = show(console, name, {**floors, "graph network": learned}, runs)
        claims[f"rope_l1_m_{name.lower()}"] = mean_claim(errors["graph network"].numpy())
        claims[f"rope_training_s_{name.lower()}"] = claim(seconds, n=1)
        place = INSTANTS.index(20)
        best = min(float(far[title]["paired"][:, place].mean()) for title in floors)
        claims[f"rope_gain_over_floor_20_{name.lower()}"] = claim(best / float(far["graph network"]["paired"][:, place].mean()), n=len(far["still"]["paired"]))
        console.print(f"{name}: trained in {seconds / 60:.1f} min on one core")
    return claims


def show(console: Console, name: str, models: Mapping[str, CloudModel], runs: CloudRecording) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Print errors of models on the test runs of a cable; the protocol's, and drift, by title."""
    table = Table("model", "mean L1, mm", "median run", *(f"drift {step}, mm" for step in INSTANTS), *(f"chamfer {step}" for step in INSTANTS), title=name)
    errors = {title: protocol_errors(model, runs) for title, model in models.items()}
    far = {title: drift(model, runs) for title, model in models.items()}
    for title, values in errors.items():
        cells = [f"{1e3 * float(value):.2f}" for kind in ("paired", "chamfer") for value in far[title][kind].mean(0)]
        table.add_row(title, f"{1e3 * float(values.mean()):.2f}", f"{1e3 * float(values.median()):.2f}", *cells)
    console.print(table)
    return errors, far
