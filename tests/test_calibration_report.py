"""The report of a calibration: what its words say follows from the numbers, and its pictures are drawn."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structwm.physics import Recording, Settings, calibrate
from structwm.physics.calibration import Calibration
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_runs import RigidRun, rigid_recording
from structwm.physics.rigid_world import Actuator, Body, CapsuleShape, Geometry, Joint, RigidWorld
from structwm.report.calibration import calibration_page, directions_in_words, draw_calibration, error_rows, parameter_rows, read_generations
from structwm.report.calibration_figures import draw_losses, error_curves
from tests.sliding_cubes import DT, TRUTH, WORLD, slides

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def slid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration[Any], Recording[Any], Path]:
    folder = tmp_path_factory.mktemp("slid")
    twin = RigidTwin(WORLD, dt=DT, substeps=4)
    recording, held_out = rigid_recording(twin, slides(6)).split(0.4)
    settings = Settings(evaluations=40, iterations=4, explore=0)
    calibration = calibrate(twin, recording, ("friction", "gravity", "size"), held_out=held_out, settings=settings, folder=folder, progress=False)
    return calibration, held_out, folder


def test_pictures_are_drawn_and_deterministic(slid: tuple[Calibration[Any], Recording[Any], Path]) -> None:
    calibration, held_out, folder = slid
    generations = read_generations(folder)
    assert sum(map(len, generations)) >= 40 and all(len(losses) > 3 for losses in generations)
    pictures = draw_calibration(calibration, held_out, labels=[f"slide {k}" for k in range(6)], truth=TRUTH, generations=generations)
    assert set(pictures) == {"parameters", "search", "correlations", "over_time", "runs_cube"}
    for image in pictures.values():
        width, height = struct.unpack(">II", image[16:24])
        assert image.startswith(PNG) and width > 500 and height > 200 and len(image) > 5000
    assert draw_losses(calibration, generations=generations) == pictures["search"]
    assert draw_losses(calibration).startswith(PNG) and read_generations(folder / "nowhere") == []


def test_the_page_says_what_the_numbers_say(slid: tuple[Calibration[Any], Recording[Any], Path]) -> None:
    calibration, held_out, folder = slid
    page = calibration_page(calibration, held_out, title="slides & such", truth={"friction": 0.3}, settings={"scene": "<scene>"})
    markup = page.html()
    assert markup.count("data:image/png;base64,") == 5 and "slides &amp; such" in markup and "&lt;scene&gt;" in markup
    rows = {row.name: row for row in parameter_rows(calibration)}
    friction, weight = rows["cube.friction"], rows["gravity"]
    assert friction.narrowed > 10 and friction.low < 0.3 < friction.high and friction.note == "trades off against gravity"
    assert "not identified" in weight.note and weight.narrowed < 1.4
    assert f"{friction.value:.4g}" in markup and "not identified" in markup and "0.3</td>" in markup
    for warning in calibration.warnings:
        assert warning.split(":")[0] in markup
    assert page.write(folder / "report.html").stat().st_size == len(markup.encode())
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        calibration_page(calibration, held_out, truth={"colour": 1.0})


def test_errors_are_in_units_for_people(slid: tuple[Calibration[Any], Recording[Any], Path]) -> None:
    calibration, held_out, _ = slid
    rows = {name: (unit, dict(errors)) for name, unit, errors in error_rows(calibration, held_out)}
    unit, errors = rows["cube.position"]
    assert unit == "mm" and errors["held out"] == pytest.approx(1000 * calibration.errors["held out"]["cube.position"])
    assert rows["cube.rotation"][0] == "deg" and errors["persistence"] > 10 * errors["held out"]
    curves = {curve.name: curve for curve in error_curves(calibration, held_out)}
    assert np.nanmean(curves["cube.position"].error) == pytest.approx(errors["held out"], rel=1e-5)
    assert np.nanmean(curves["cube.position"].still) == pytest.approx(errors["persistence"], rel=1e-5)


def test_directions_name_the_weakest_first(slid: tuple[Calibration[Any], Recording[Any], Path]) -> None:
    calibration, _, _ = slid
    sentences = directions_in_words(calibration)
    assert sentences[0].startswith("The weakest direction is gravity") and "the data hardly makes it 1." in sentences[0]
    joined = torch.tensor([[100.0, 99.9, 0.0], [99.9, 100.0, 0.0], [0.0, 0.0, 1e9]], dtype=torch.float64)
    prior = replace(calibration.prior, covariance=torch.eye(3, dtype=torch.float64))
    sentences = directions_in_words(replace(calibration, information=joined, prior=prior, inflation=1.0))
    assert sentences[0] in {
        f"The weakest direction is {a} and {b} against it: the data says nothing." for a, b in (("cube.friction", "gravity"), ("gravity", "cube.friction"))
    }
    assert sentences[2] == "The third is cube.size: the data pins it down."


def test_notes_on_bounds_and_trades(slid: tuple[Calibration[Any], Recording[Any], Path]) -> None:
    calibration, _, _ = slid
    covariance = torch.diag(torch.tensor([1e-4, 1e-4, 1e-4], dtype=torch.float64))
    covariance[0, 2] = covariance[2, 0] = -0.95e-4
    rows = parameter_rows(replace(calibration, z=torch.tensor([-8.0, 0.0, 0.0], dtype=torch.float64), covariance=covariance))
    assert rows[0].note.startswith("at its lower bound") and "trades off against cube.size" in rows[0].note
    assert rows[1].note in ("", "far from what was expected")


def test_joints_and_all_runs_fitted() -> None:
    """A driven pendulum: angles are drawn, in degrees, and without held-out runs the page says so."""
    rod = Body("rod", 0.2, 0.001, (Geometry(CapsuleShape(0.01, 0.1)),), com=(0.0, 0.0, -0.1), joint=Joint("hinge", axis=(0.0, 1.0, 0.0), damping=0.002))
    world = RigidWorld((rod,), (), (Actuator("rod", "effort", -0.2, 0.2),))
    twin = RigidTwin(world, dt=0.02, substeps=4)
    torque = 0.1 * torch.sin(torch.arange(40) * 0.3).double()
    runs = []
    for k in range(3):
        start = twin.state(positions={"rod": torch.tensor(0.4 * k + 2.5, dtype=torch.float64)}).unsqueeze(0)
        states = twin.with_parameters({"mass": 0.25}).rollout(start, torque[None, :, None]).states
        angle = states.configuration[0, :, 0]
        seen = torch.atan2(angle.sin(), angle.cos())  # wrapped, as many encoders are
        runs.append(RigidRun(positions={"rod": seen}, rates={"rod": states.velocity[0, :, 0]}, actions=torque[:, None]))
    recording = rigid_recording(twin, runs)
    calibration = calibrate(twin, recording, ("mass",), held_out=None, settings=Settings(evaluations=0, iterations=4), progress=False)
    assert calibration.values["rod.mass"] == pytest.approx(0.25, rel=0.02)
    pictures = draw_calibration(calibration, recording)
    assert "runs_coordinates" in pictures
    page = calibration_page(calibration, recording, pictures=pictures).html()
    assert "none were held out" in page and "rod.angle" in page and ">deg<" in page
