"""Calibrate twins of a real triangle on some of its pushes, and predict where the others leave it.

The pushes are those of Zhou et al. (ICRA 2016, `structwm fetch cmu_push`). Two twins read them. `PushTwin` pushes an outline quasi-statically: it knows neither
mass nor feet, and finds where the pressure lies, the surface's grain, and where outline and tip really are. `RigidTwin` stands on the three feet that upstream
measured, and finds how the tip rubs and where the mass lies. Beside them: predicting that the triangle stays where it is.

    python examples/calibrate_pushing.py --surface plywood --pushes 20 --twins push rigid
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from structwm.data import read_cmu_push
from structwm.demos.pushed_triangle import draw_predictions, triangle_final, triangle_recording, triangle_twin
from structwm.physics import Evidence, Settings, calibrate, contact_gap, final_pose, push_recording, push_twin
from structwm.physics.recorded_pushes import PARAMETERS
from structwm.report.calibration import calibration_page, directions_in_words, draw_calibration, parameter_rows

END = Evidence(lambda twin, recording: contact_gap(twin, recording)[..., 1:], 5e-4)  # pushes start 2 mm off the triangle, and end at it, to half a millimetre

FEET = ("tip.friction", "triangle.com_x", "triangle.com_y")


@dataclass(frozen=True)
class Options:
    """What to run."""

    surface: Literal["hardboard", "plywood"] = "hardboard"
    twins: tuple[Literal["push", "rigid"], ...] = ("push", "rigid")
    pushes: int = 20  # of 50, that calibrate; the others are predicted
    iterations: int = 15  # Gauss-Newton steps at most
    seed: int = 0  # of which pushes calibrate
    folder: Path = Path("runs/calibrate_pushing")  # of the picture and the reports


def main(options: Options) -> None:
    log = next(log for log in read_cmu_push() if log.surface == options.surface)
    pushes = log.straight()
    if not 2 <= options.pushes < len(pushes):
        raise SystemExit(f"There are {len(pushes)} pushes, of which 2 to {len(pushes) - 1} can calibrate, got {options.pushes}.")
    order = np.random.default_rng(options.seed).permutation(len(pushes))
    few, others = pushes[order[: options.pushes]], pushes[order[options.pushes :]]
    settings = Settings(evaluations=0, iterations=options.iterations, explore=0)
    options.folder.mkdir(parents=True, exist_ok=True)
    predicted: dict[str, np.ndarray] = {"hold still": others.init_pose}
    for name in options.twins:
        twin: Any = push_twin(pushes) if name == "push" else triangle_twin(log)
        seen, unseen = (push_recording(part) if name == "push" else triangle_recording(twin, part) for part in (few, others))
        final: Any = final_pose if name == "push" else triangle_final
        what, evidence = (PARAMETERS, [END]) if name == "push" else (FEET, [])
        calibration = calibrate(twin, seen, what, held_out=unseen, evidence=evidence, settings=settings)
        predicted[f"{name} twin, not calibrated"], predicted[f"{name} twin"] = final(twin, others), final(calibration.twin, others)

        print(f"\n{type(twin).__name__}, calibrated on {len(few)} pushes on {options.surface}: values with 90 % intervals")
        for row in parameter_rows(calibration):
            print(f"  {row.name:22s} {row.value:9.4g} {row.unit:4s} {row.low:9.3g} to {row.high:9.3g}   {row.narrowed:4.1f} x narrower than before  {row.note}")
        for sentence in directions_in_words(calibration, count=2):
            print(f"  {sentence}")
        title, pictures = f"A real triangle, pushed on {options.surface}: {type(twin).__name__}", draw_calibration(calibration, unseen)
        print(f"  report: {calibration_page(calibration, unseen, title=title, pictures=pictures).write(options.folder / f'{name}.html')}")

    print(f"\n{len(others)} other pushes{'':20s}position [mm]: mean  median     turn [degrees]: mean  median")
    for name, poses in predicted.items():
        away, turned = others.errors(poses)
        position, turn = 1000 * away, np.degrees(turned)
        print(f"  {name:38s} {position.mean():10.2f} {np.median(position):7.2f} {turn.mean():21.2f} {np.median(turn):7.2f}")
    picture = options.folder / "pushes.png"
    picture.write_bytes(draw_predictions(others, {f"{name} twin": predicted[f"{name} twin"] for name in options.twins}))
    print(f"picture: {picture}")


if __name__ == "__main__":
    main(tyro.cli(Options))
