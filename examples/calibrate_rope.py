"""Calibrate a discrete elastic rod on real cable motion, learn what it still gets wrong, and predict five seconds of runs that neither saw from two frames and
the driven ends.

The runs are those of Chen et al., CoRL 2024 (`structwm fetch deform_rope` says how to get them).

    python examples/calibrate_rope.py --cable DLO1 --runs 28 --residual ridge
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from structwm.data import read_rope_motion
from structwm.data.rope_motion import RATE
from structwm.physics import Rod, RodTwin, Settings, calibrate, fit_particle_residual, rod_recording
from structwm.report.calibration import calibration_page, directions_in_words, draw_calibration, read_generations
from structwm.transition import TransitionModel

MATERIAL = ("bend_stiffness", "bend_damping", "drag", "length")


@dataclass(frozen=True)
class Options:
    """What to run."""

    cable: Literal["DLO1", "DLO2"] = "DLO1"
    runs: int = 28  # to learn from, of 56
    shape: Literal["straight", "read", "calibrated"] = "read"  # at rest: straight, curved as the tracks show, or every natural curvature calibrated (minutes)
    residual: Literal["ridge", "recurrent", "none"] = "ridge"  # of the calibrated rod; a recurrent one takes minutes
    evaluations: int = 60  # draws of the global search
    iterations: int = 12  # Gauss-Newton steps at most
    folder: Path = Path("runs/calibrate_rope")  # of the report


def main(options: Options) -> None:
    motion = read_rope_motion(options.cable)
    train, test = torch.tensor(motion.train), torch.tensor(motion.test)
    if not 2 <= options.runs <= len(train):
        raise SystemExit(f"There are {len(train)} runs to calibrate on and two are needed, got {options.runs}.")
    options.folder.mkdir(parents=True, exist_ok=True)
    train = train[: options.runs]
    curved: dict[str, Any] = {} if options.shape == "straight" else {"curved": True, "director": motion.director}
    twin = RodTwin(Rod.from_tracks(train, driven=motion.driven, **curved), dt=1 / RATE, substeps=2)
    parameters = (
        *MATERIAL,
        *{"straight": ("quadratic_drag",), "read": ("curvature_scale",), "calibrated": ("quadratic_drag", *twin.curvatures)}[options.shape],
    )
    seen, unseen = rod_recording(twin, train, segment=250), rod_recording(twin, test)
    settings = Settings(evaluations=options.evaluations, iterations=options.iterations, dof=8.0, explore=0)
    calibration = calibrate(twin, seen, parameters, held_out=unseen, settings=settings, folder=options.folder)
    for name, (low, high) in calibration.intervals(0.9).items():
        print(f"{name:15s} {calibration.values[name]:9.4g}   90 % interval {low:9.4g} to {high:9.4g} {calibration.twin.physical[name].unit}")
    for line in directions_in_words(calibration, count=2):
        print(line)
    models: dict[str, TransitionModel[Any]] = {"before": twin, "calibrated": calibration.twin}
    if options.residual != "none":
        fitted = fit_particle_residual(calibration.twin, train, method=options.residual, parameters=parameters)
        print(f"residual, {fitted.seconds:.0f} s: {fitted.why}")
        models[f"with the {options.residual} residual"] = fitted.model
    for label, model in models.items():
        predicted = model.rollout(unseen.state, unseen.actions).states.positions[:, 1:]
        each = (predicted - test[:, 2:]).abs().mean((1, 2, 3))
        print(f"{label}: mean absolute error of a coordinate over five seconds {each.mean():.4f} m, median of the {len(test)} runs {each.median():.4f} m")
    pictures = draw_calibration(calibration, unseen, labels=[f"test run {k}" for k in range(len(test))], generations=read_generations(options.folder))
    page = calibration_page(calibration, unseen, title=f"A real cable, {options.cable}", pictures=pictures)
    print(f"report: {page.write(options.folder / 'report.html')}")


if __name__ == "__main__":
    main(tyro.cli(Options))
