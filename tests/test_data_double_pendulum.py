"""The double pendulum's runs and its identified parameters: what the files hold, that the documented equations fit them, and that bad files are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from structwm.data import BadData, DataUnavailable, JointRun, read_double_pendulum, read_identified_parameters
from structwm.data.double_pendulum import _COLUMNS, PARAMETERS
from structwm.data.registry import data_source


@pytest.fixture(scope="module")
def runs(data_dir: Callable[[str], Path]) -> tuple[JointRun, ...]:
    return read_double_pendulum(data_dir("double_pendulum"))


def test_files_are_the_pinned_ones(data_dir: Callable[[str], Path]) -> None:
    source, folder = data_source("double_pendulum"), data_dir("double_pendulum")
    assert source.licence == "BSD-3-Clause" and len(source.files) == 23 and f"/{source.commit}/" in source.url
    assert dict(source.files) == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in source.files}


def test_runs(runs: tuple[JointRun, ...]) -> None:
    assert [(run.name, len(run.times)) for run in runs] == [
        ("20230629-143339", 4998),
        ("20230629-143524", 4997),
        ("20230629-143601", 5000),
        ("20230629-143704", 4999),
    ]
    for run in runs:
        step = np.diff(run.times)
        assert run.times[-1] == pytest.approx(9.9988, abs=3e-4) and step.min() > 0.0019 and step.max() < 0.0038
        np.testing.assert_allclose(run.velocities[1:], np.diff(run.positions, axis=0) / step[:, None], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(run.filtered_positions, run.positions)
        np.testing.assert_array_equal(run.filtered_velocities, run.velocities)
        assert not run.torques_friction.any() and np.abs(run.positions[0]).max() < 0.001 and not run.positions.flags.writeable
        assert np.abs(run.torques_measured).max() < 1 and np.abs(run.torques_commanded).max() < 1


def test_parameters(data_dir: Callable[[str], Path]) -> None:
    models = read_identified_parameters(data_dir("double_pendulum"))
    assert len(models) == 13 and list(models) == sorted(models) and sum(name.startswith("design_C.1/") for name in models) == 4
    assert all(tuple(model) == tuple(PARAMETERS) for model in models.values())
    assert models["design_C.1/model_1.0"]["r2"] == 0.25569305436052964 and models["design_A.0/model_1.0"]["Ir"] == 0.000060719


def acceleration(p: dict[str, float], q: NDArray[np.float64], v: NDArray[np.float64], tau: NDArray[np.float64], centroidal: bool) -> NDArray[np.float64]:
    """The equations of the module's docstring; `centroidal` takes the inertias to be about the centres of mass."""
    h, rotor = p["m2"] * p["l1"] * p["r2"], p["gr"] ** 2 * p["Ir"]
    first = p["I1"] + centroidal * p["m1"] * p["r1"] ** 2
    second = p["I2"] + centroidal * p["m2"] * p["r2"] ** 2
    cosine, sine = np.cos(q[:, 1]), np.sin(q[:, 1])
    m11 = first + second + p["m2"] * p["l1"] ** 2 + 2 * h * cosine + rotor + p["Ir"]
    m12, m22 = second + h * cosine - p["gr"] * p["Ir"], second + rotor
    fall = p["g"] * p["m2"] * p["r2"] * np.sin(q.sum(axis=1))
    f1 = h * sine * (2 * v[:, 0] + v[:, 1]) * v[:, 1] - p["g"] * (p["m1"] * p["r1"] + p["m2"] * p["l1"]) * np.sin(q[:, 0]) - fall
    f2 = -h * sine * v[:, 0] ** 2 - fall
    friction = v * (p["b1"], p["b2"]) + np.arctan(100 * v) * (p["cf1"], p["cf2"])
    force = tau - friction + np.stack([f1, f2], axis=1)
    solved = np.stack([m22 * force[:, 0] - m12 * force[:, 1], m11 * force[:, 1] - m12 * force[:, 0]], axis=1)
    return np.asarray(solved / (m11 * m22 - m12**2)[:, None])


def test_the_documented_equations_fit_the_runs(runs: tuple[JointRun, ...], data_dir: Callable[[str], Path]) -> None:
    """Open loop over 0.5 s from every half second on, with the torques commanded: inertias are about the joints, angles from hanging, the second relative."""
    steps, width = 250, 7
    starts = [(run, start) for run in runs for start in range(250, len(run.times) - steps, steps)]
    truth = np.stack([run.positions[start : start + steps + 1] for run, start in starts])
    torques = np.stack([run.torques_commanded[start : start + steps] for run, start in starts])
    around = [(run, start - width, start + width) for run, start in starts]
    begin = np.stack([(run.positions[end] - run.positions[start]) / (run.times[end] - run.times[start]) for run, start, end in around])
    parameters = read_identified_parameters(data_dir("double_pendulum"))["design_C.1/model_1.0"]
    errors = []
    for centroidal in (False, True):
        q, v, path, part = truth[:, 0], begin, [truth[:, 0]], 0.002 / 4
        for step in range(steps):
            for _ in range(4):  # midpoint; friction is steep near rest
                half = v + part / 2 * acceleration(parameters, q, v, torques[:, step], centroidal)
                q, v = q + part * half, v + part * acceleration(parameters, q + part / 2 * v, half, torques[:, step], centroidal)
            path.append(q)
        errors.append(np.sqrt(((np.stack(path, axis=1) - truth) ** 2).mean()))
    assert errors[0] < 0.1 and errors[1] > 0.25


ROWS = [[0.002 * step] + [0.1 * step] * 14 for step in range(4)]


def written(folder: Path, rows: list[list[float]], header: str = ",".join(_COLUMNS)) -> Path:
    (folder / "run.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return folder


def test_a_written_run(tmp_path: Path) -> None:
    (run,) = read_double_pendulum(written(tmp_path, ROWS))
    assert run.name == "run" and run.times.tolist() == [0, 0.002, 0.004, 0.006] and run.torques_measured.shape == (4, 2)


@pytest.mark.parametrize(
    ("rows", "header", "text"),
    [
        (ROWS, "time,angle", "the header, field columns: expected time, pos_meas1, .*got time, angle"),
        (ROWS[:1], None, "field the whole row: expected 2 rows or more, got 1"),
        ([*ROWS, [0.008, 1.0]], None, "record 4, field the whole row: expected 15 numbers, got '0.008,1.0'"),
        ([*ROWS, [0.008] * 14 + ["x"]], None, "record 4, field the whole row: expected 15 numbers"),
        ([*ROWS, [0.008] * 14 + [float("inf")]], None, "record 4, field tau_meas2: expected a finite number, got inf"),
        ([*ROWS, ROWS[3]], None, "record 4, field time: expected more than the 0.006 s of the row before, got 0.006"),
    ],
)
def test_bad_runs(tmp_path: Path, rows: list[list[float]], header: str | None, text: str) -> None:
    with pytest.raises(BadData, match=f"run.csv, .*{text}") as caught:
        read_double_pendulum(written(tmp_path, rows, *([header] if header else [])))
    assert "\n" not in str(caught.value)


GOOD = "\n".join(f"{key}: 1.5e-1" for key in PARAMETERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("m1: 1.5e-1\n", ""), "every line, field m1: expected 17 parameters, got 16"),
        (GOOD + "\nm1: 2", "line 18, field m1: expected each of m1, .* once, got it again"),
        (GOOD + "\nm3: 2", "line 18, field m3: .* got another key"),
        (GOOD.replace("m1: 1.5e-1", "m1: 0"), "line 1, field m1: expected a finite number above 0, got 0.0"),
        (GOOD.replace("b1: 1.5e-1", "b1: -1"), "field b1: expected a finite number of 0 or more, got -1.0"),
        (GOOD.replace("m1: 1.5e-1", "m1: 1e999"), "field m1: expected a finite number above 0, got inf"),
        (GOOD.replace("m1: 1.5e-1", "m1: [1, 2]"), r"line 1, field the whole line: expected key: number, got 'm1: \[1, 2\]'"),
        (GOOD.replace("m1: 1.5e-1", "m1: .nan"), "line 1, field the whole line: expected key: number"),
        (GOOD.replace("m1: 1.5e-1", "m1: !!python/object/apply:os.system [x]"), "line 1, field the whole line"),
        ("\x00\ud800", "field the whole file: expected a text file, got UnicodeDecodeError"),
    ],
)
def test_bad_parameters(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "design_Z.0" / "model_1.0" / "model_parameters.yml"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadData, match=f"model_parameters.yml, .*{message}") as caught:
        read_identified_parameters(tmp_path)
    assert "\n" not in str(caught.value)
    file.write_text("# a comment\n\n" + GOOD)
    assert read_identified_parameters(tmp_path)["design_Z.0/model_1.0"]["g"] == 0.15


def test_absent_files(tmp_path: Path) -> None:
    for read in (read_double_pendulum, read_identified_parameters):
        with pytest.raises(DataUnavailable, match="of double_pendulum in .*run `structwm fetch double_pendulum` or give its folder"):
            read(tmp_path)
