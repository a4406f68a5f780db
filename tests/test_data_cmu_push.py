"""The triangle's logged pushes: what the files hold, that units and frames fit each other, and that bad files are refused."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from structwm.data import BadData, DataUnavailable, PushLog, read_cmu_push
from structwm.data.cmu_push import CENTER_OF_MASS, OUTLINE
from structwm.data.registry import data_source
from structwm.geometry.outline import moments, signed_distance


@pytest.fixture(scope="module")
def logs(data_dir: Callable[[str], Path]) -> tuple[PushLog, ...]:
    return read_cmu_push(data_dir("cmu_push"))


def test_files_are_the_pinned_ones(data_dir: Callable[[str], Path]) -> None:
    source, folder = data_source("cmu_push"), data_dir("cmu_push")
    assert source.licence == "Apache-2.0" and len(source.files) == 2 and f"/{source.commit}/" in source.url
    assert dict(source.files) == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in source.files}


def test_logs(logs: tuple[PushLog, ...]) -> None:
    assert [(log.name, log.surface, len(log.pushes)) for log in logs] == [("exp_08_11_50_mixed", "hardboard", 50), ("exp_08_17_0922_50", "plywood", 50)]
    assert [log.friction for log in logs] == pytest.approx([0.2823, 0.3361], abs=1e-4)
    for log in logs:
        np.testing.assert_allclose(log.support_points + CENTER_OF_MASS, [(0.03, 0.03), (0.09, 0.03), (0.03, 0.09)])
        backwards = [number for number in range(1, 50) if log.pushes[number].force_times[0] < log.pushes[number - 1].force_times[0]]
        assert backwards == ([30] if log.surface == "hardboard" else [])
        for push in log.pushes:
            assert push.tip_poses.shape == (len(push.tip_times), 7) and push.forces.shape == (len(push.force_times), 2) and not push.forces.flags.writeable
            for poses in (push.pre_pose[None], push.post_pose[None], push.tip_poses):
                np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1, rtol=0, atol=1e-12)
            assert np.linalg.norm(push.tip_poses[-1, :2] - push.tip_poses[0, :2]) == pytest.approx(0.0163, abs=2e-4)
            assert 6.5 < np.ptp(push.force_times) < 6.8 and abs(push.tip_times[0] - push.force_times[0]) < 0.001
            assert 0.002 < np.linalg.norm(push.post_planar[:2] - push.pre_planar[:2]) < 0.015


def test_the_tip_touches_the_triangle(logs: tuple[PushLog, ...]) -> None:
    """Units, frame and outline agree: at the end of a push the tip stands on the outline, at its start just off it."""
    for log in logs:
        for push in log.pushes:
            for planar, tip, least, most in ((push.pre_planar, push.tip_poses[0], 0.0012, 0.0026), (push.post_planar, push.tip_poses[-1], -0.0015, 0.0020)):
                cosine, sine = np.cos(planar[2]), np.sin(planar[2])
                local = np.array([(cosine, sine), (-sine, cosine)]) @ (tip[:2] - planar[:2])
                assert least < signed_distance(OUTLINE, local) < most


def test_the_outline_is_about_its_centre_of_mass() -> None:
    area, center, _ = moments(OUTLINE)
    assert area == pytest.approx(0.15**2 / 2) and np.abs(center).max() < 1e-12


def test_forces_push_along_the_tips_motion(logs: tuple[PushLog, ...]) -> None:
    """Rotated into the world and turned to act on the triangle, they are within the friction cone about the motion, and as large as sliding needs at most."""
    for log in logs:
        for push in log.pushes:
            late = push.applied_forces[-len(push.forces) // 3 :].mean(axis=0)
            motion = push.tip_poses[-1, :2] - push.tip_poses[0, :2]
            assert late @ motion / np.linalg.norm(late) / np.linalg.norm(motion) > 0.6 and np.linalg.norm(late) < 6.0


def test_straight_pushes(logs: tuple[PushLog, ...]) -> None:
    """The two ends of what was logged, which are believable pushes: the tip starts off the triangle and ends at it."""
    for log in logs:
        pushes, last = log.straight(), log.pushes[-1]
        assert len(pushes) == 50 and pushes.name == f"{log.surface}/triangle" and np.abs(pushes.start_gap - 0.0015).max() < 0.001
        np.testing.assert_array_equal(pushes.init_pose[-1], last.pre_planar)
        np.testing.assert_array_equal(pushes.final_tip[-1], last.tip_poses[-1, :2])
        turn = pushes.final_pose[:, 2] - pushes.init_pose[:, 2]
        assert np.abs(turn).max() < 0.2 and 0.09 < np.abs(turn).mean() < 0.12


@pytest.mark.slow
def test_example(logs: tuple[PushLog, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both twins, calibrated on a few pushes, leave a third of the error of holding still."""
    pytest.importorskip("matplotlib")
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "calibrate_pushing.py"))
    example["main"](example["Options"](surface="plywood", pushes=8, iterations=2, folder=tmp_path))
    shown = capsys.readouterr().out
    means = {line[:40].strip(): [float(word) for word in line[40:].split()] for line in shown.split("other pushes")[1].splitlines()[1:6]}
    assert set(means) == {"hold still"} | {f"{name} twin{more}" for name in ("push", "rigid") for more in ("", ", not calibrated")}
    for name in ("push twin", "rigid twin"):
        assert means[name][0] < means["hold still"][0] / 3 and means[name][2] < means["hold still"][2] / 2
    assert "The weakest direction is" in shown and {file.name for file in tmp_path.iterdir()} >= {"pushes.png", "push.html", "rigid.html"}


PUSH = ["0 0 10 1 0 0 0", "5 0 10 1 0 0 0", "3", "10.0 1 2", "10.1 1 2", "10.2 2 4", "2", "10.0 -15 60 20 1 0 0 0", "10.1 5 60 20 1 0 0 0"]


def written(folder: Path, lines: list[str], name: str = "wood_30_90_30_30_30_90") -> Path:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "exp.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_written_log(tmp_path: Path) -> None:
    turned = ["0 0 10 0.5 0 0 -0.8660254", *PUSH[1:]]
    (log,) = read_cmu_push(written(tmp_path, ["1", *turned]))
    (push,) = log.pushes
    assert log.surface == "plywood" and log.name == "exp"
    np.testing.assert_allclose(push.post_pose, [0.055, 0.05, 0.01, 1, 0, 0, 0])
    np.testing.assert_allclose(push.pre_planar, [0.05 * (-0.5 + 0.75**0.5), 0.05 * (-0.5 - 0.75**0.5), -2 * np.pi / 3], atol=1e-8)
    np.testing.assert_allclose(push.tip_poses[1, :3], [0.005, 0.06, 0.02])
    np.testing.assert_allclose(push.applied_forces, [(0, 0), (0, 0), (-(0.5**0.5) * 3, 0.5**0.5)], atol=1e-12)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "every push, field number of pushes: expected a whole number above 0 on its own line, got ''"),
        (["1.5", *PUSH], "every push, field number of pushes: .*got '1.5'"),
        (["1", *PUSH[:2], "0", *PUSH[6:]], "record 0, field number of forces: expected a whole number above 0"),
        (["1", "0 0 10 1 0 0", *PUSH[1:]], "record 0, field pre_pose: expected rows of 7 finite numbers, got '0 0 10 1 0 0'"),
        (["1", *PUSH[:1], "0 0 10 1 0 0 0.1", *PUSH[2:]], "record 0, field post_pose: expected quaternions of a length within 0.001 of 1, got 1.00499"),
        (["1", *PUSH[:4], "10.1 x 2", *PUSH[5:]], "record 0, field force: expected rows of 3 finite numbers, got '10.1 x 2'"),
        (["1", *PUSH[:4], "10.1 nan 2", *PUSH[5:]], "record 0, field force: expected rows of 3 finite numbers"),
        (["1", *PUSH[:4], "9.0 1 2", *PUSH[5:]], "record 0, field force time: expected increasing times, got 9.0 out of order"),
        (["1", *PUSH[:6], "200", *PUSH[7:]], "record 0, field tip: expected 200 rows, got 3 rows and the end of the file"),
        (
            ["1", *PUSH[:8], "10.1 0.005 0.06 0.02 1 0 0 0", PUSH[8]],
            "field the end of the file: expected nothing after the last push, got 1 more lines",
        ),
        (["1", *PUSH[:8], "10.1 500 60 20 1 0 0 0"], "field tip: expected an end within 10 mm of the triangle's outline, got 350.2 mm"),
        (["2", *PUSH], "record 1, field pre_pose: expected rows of 7 finite numbers, got ''"),
    ],
)
def test_bad_logs(tmp_path: Path, lines: list[str], text: str) -> None:
    with pytest.raises(BadData, match=f"exp.txt, .*{text}") as caught:
        read_cmu_push(written(tmp_path, lines))
    assert "\n" not in str(caught.value)


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="run `structwm fetch cmu_push` or give its folder"):
        read_cmu_push(written(tmp_path, ["1", *PUSH], name="patch"))
    folder = written(tmp_path, [], name="10_90_10_10_30_130")
    (folder / "10_90_10_10_30_130" / "exp.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(BadData, match="every push, field the whole file: expected a text file, got UnicodeDecodeError"):
        read_cmu_push(folder)
