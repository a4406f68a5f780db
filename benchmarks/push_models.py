"""Physics, learned and hybrid models of real pushes from 10 to all calibration pushes, kept beside this file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.claims import settings_hash
from structwm.data import Pushes, split
from structwm.physics.family import COMMON
from structwm.physics.push_correction import Fused, GeometricPush, KernelRates, PushCorrection
from structwm.physics.push_features import GEOMETRY, PushGeometry
from structwm.physics.push_learning import (
    AMPLITUDES,
    GATES,
    HYBRID,
    LEARNED,
    STEPS,
    SUBSTEPS,
    geometric_base,
    hybrid_push_model,
    learned_push_model,
    with_steps,
)
from structwm.physics.push_process import Part
from structwm.physics.pushing import PushState, PushTwin
from structwm.physics.recorded_pushes import PARAMETERS, final_pose, push_twin
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

KEPT = Path(__file__).parent / "artefacts" / "push_models"
SIZES = (10, 20, 40, 1000)  # calibration pushes of each cell; the last is all there are
ALONE = 10  # calibration pushes where one cell is all there is
Model = TransitionModel[PushState]
Errors = dict[str, tuple[np.ndarray, np.ndarray]]  # position [m] and yaw [rad], each (N,), by kind of model


@dataclass(frozen=True)
class Models:
    """What one size of calibration set made of each cell."""

    physics: Sequence[Model]
    learned: Sequence[Model]
    hybrid: Sequence[Model]
    gate: float  # share of the correction that the hybrid uses
    errors: Sequence[Tensor]  # (n, 3) of the hybrid for each cell, out of fold


def all_trained(cells: Sequence[Pushes], console: Console) -> dict[int, Models]:
    """Models of all sizes, one process for each core."""
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = {size: pool.submit(trained, cells, size) for size in reversed(SIZES)}  # the longest first
        done = {size: job.result() for size, job in jobs.items()}
    for size in SIZES:
        console.print(done[size][1])
    return {size: done[size][0] for size in SIZES}


def each_alone(cells: Sequence[Pushes]) -> Errors:
    """Errors on all test pushes of models that know `ALONE` pushes of one cell and no other, by kind of model."""
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_alone, cells))
    return {name: (np.concatenate([each[name][0] for each in found]), np.concatenate([each[name][1] for each in found])) for name in found[0]}


def _alone(pushes: Pushes) -> Errors:
    models, _ = trained([pushes], ALONE)
    return errors(models, [pushes[split(pushes)[1]]])


def trained(cells: Sequence[Pushes], size: int) -> tuple[Models, str]:
    """Models from the first `size` calibration pushes of each cell, and what there is to say of them."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    few = [pushes[split(pushes)[0][:size]] for pushes in cells]
    hybrid = hybrid_push_model(few)
    middle = time.perf_counter()
    learned = learned_push_model(few)
    seconds = (middle - start, time.perf_counter() - middle)
    said = f"{sum(map(len, few))} pushes: hybrid in {seconds[0]:.0f} s, gate {hybrid.gate:g}; learned in {seconds[1]:.0f} s"
    return Models([model.model for model in hybrid.models], learned.models, hybrid.models, hybrid.gate, hybrid.errors), said


def keep(models: dict[int, Models], cells: Sequence[Pushes]) -> None:
    """Write what the models were found to be: parameters of twins, geometry, weights of corrections."""
    arrays: dict[str, Tensor] = {}
    for size, found in models.items():
        for pushes, physics, learned, hybrid, out_of_fold in zip(cells, found.physics, found.learned, found.hybrid, found.errors, strict=True):
            where = f"{size}/{pushes.name}"
            arrays[f"{where}/twin"] = torch.stack([twin_of(physics).values[name].double() for name in PARAMETERS])
            arrays[f"{where}/geometry"] = torch.tensor(flat_geometry(base_of(learned).geometry), dtype=torch.float64)
            for name, model in (("learned", learned), ("hybrid", hybrid)):
                arrays[f"{where}/{name}"] = weights_of(model).float()
            arrays[f"{where}/errors"] = out_of_fold.float()
    KEPT.parent.mkdir(exist_ok=True)
    save_file(arrays, KEPT.with_suffix(".safetensors"))
    gates = {str(size): found.gate for size, found in models.items()}
    KEPT.with_suffix(".json").write_text(json.dumps({"config": config_hash(), "gates": gates}, indent=1) + "\n")


def kept(cells: Sequence[Pushes]) -> dict[int, Models]:
    """The models of the last full run, by size.

    Raises:
        ValueError: if they were trained under other settings.
    """
    facts = json.loads(KEPT.with_suffix(".json").read_text())
    if facts["config"] != config_hash():
        raise ValueError("The kept models were trained under other settings; run python -m benchmarks.pushing once without --quick.")
    arrays = load_file(KEPT.with_suffix(".safetensors"))
    found = {}
    for size, gate in facts["gates"].items():
        each = [_rebuilt(pushes, {part: arrays[f"{size}/{pushes.name}/{part}"] for part in ("twin", "geometry", "learned", "hybrid")}) for pushes in cells]
        physics, learned, hybrid = (list(models) for models in zip(*each, strict=True))
        found[int(size)] = Models(physics, learned, hybrid, gate, [arrays[f"{size}/{pushes.name}/errors"].double() for pushes in cells])
    return found


def _rebuilt(pushes: Pushes, arrays: dict[str, Tensor]) -> tuple[Model, Model, Model]:
    twin = push_twin(pushes).with_parameters(dict(zip(PARAMETERS, arrays["twin"].unbind(), strict=True)))
    x, y, radius, *outline = map(float, arrays["geometry"])
    geometry = PushGeometry(twin.shape, radius, (x, y), (outline[0], outline[1], outline[2]))
    learned = Residual(geometric_base(pushes, geometry), _correction(geometry, LEARNED, arrays["learned"]))
    base = with_steps(twin)
    return base, learned, Residual(base, _correction(PushGeometry.of(twin), HYBRID, arrays["hybrid"]))


def _correction(geometry: PushGeometry, parts: Sequence[Part], weights: Tensor) -> PushCorrection:
    return PushCorrection(geometry, KernelRates([part.block for part in parts], weights.double()))


def twin_of(model: Model) -> PushTwin:
    """The twin that a model steps."""
    assert isinstance(model, Fused) and isinstance(model.model, PushTwin)
    return model.model


def base_of(model: Model) -> GeometricPush:
    """What a learned model corrects."""
    assert isinstance(model, Residual) and isinstance(model.model, GeometricPush)
    return model.model


def weights_of(model: Model) -> Tensor:
    """The weights of a correction."""
    assert isinstance(model, Residual) and isinstance(model.correction, PushCorrection) and isinstance(model.correction.rates, KernelRates)
    return model.correction.rates.weights.detach()


def flat_geometry(geometry: PushGeometry) -> tuple[float, ...]:
    """Tip offset, radius, outline."""
    return (*geometry.tip_offset, geometry.pusher_radius, *geometry.outline)


def config_hash() -> str:
    """Changes when the settings of what is trained change."""
    return settings_hash(SIZES, STEPS, SUBSTEPS, GATES, AMPLITUDES, GEOMETRY, PARAMETERS, COMMON, [asdict(part) for part in (*HYBRID, *LEARNED)])


def errors(models: Models, tests: Sequence[Pushes]) -> Errors:
    """Position [m] and yaw [rad] errors of all test pushes, by kind of model."""
    found = {}
    for name in ("physics", "learned", "hybrid"):
        each = [pushes.errors(final_pose(model, pushes)) for model, pushes in zip(getattr(models, name), tests, strict=True)]
        found[name] = (np.concatenate([position for position, _ in each]), np.concatenate([yaw for _, yaw in each]))
    return found


def show_curves(curves: dict[str, Errors], gates: dict[str, str], console: Console) -> float:
    """Print learning curves by what was learned from, and return the worst ratio of the hybrid's error to the better of the two others'."""
    table = Table("calibration pushes", "physics", "learned", "hybrid", "gate", "hybrid over better", title="mean error on the test pushes [mm | rad]")
    worst = 0.0
    for source, found in curves.items():
        mean = {name: (1e3 * position.mean(), yaw.mean()) for name, (position, yaw) in found.items()}
        ratios = [mean["hybrid"][i] / min(mean["physics"][i], mean["learned"][i]) for i in range(2)]
        worst = max(worst, *map(float, ratios))
        cells = [f"{mean[name][0]:.3f} | {mean[name][1]:.4f}" for name in ("physics", "learned", "hybrid")]
        table.add_row(source, *cells, gates[source], f"{ratios[0]:.3f} | {ratios[1]:.3f}")
    console.print(table)
    return worst
