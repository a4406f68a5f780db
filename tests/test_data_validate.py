"""Bad pushes are refused with a sentence that names file, record and field: each fault is seeded in a file that is right without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from structwm.data import BadData, DataUnavailable, Pushes, read_mit_push
from structwm.data.mit_push import TIP_RADIUS, shape_outline

Records = list[dict[str, Any]]
Fault = Callable[[Records], object]
POLY4 = "wrench1twist1_20percenttrainingabs_rect1_poly4_v10.mat"
QUADRATIC = POLY4.replace("poly4", "quadratic")


def records(count: int = 12, *, seed: int = 0) -> Records:
    """Pushes of rect1 straight at the middle of a face, in the upstream layout."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        yaw = rng.uniform(-np.pi, np.pi)
        inward = -np.array([np.cos(yaw), np.sin(yaw)])
        centre = np.array([0.35, 0.0]) + rng.uniform(-0.05, 0.05, 2)
        tip = centre - (0.045 + TIP_RADIUS) * inward
        after = np.append(centre + 0.044 * inward, yaw)
        poses = {"init_pose_gt": np.append(centre, yaw), "final_pose_gt": after, "final_pose_sim": after + 0.001}
        out.append(poses | {"init_tip_pt": tip, "final_tip_pt": tip + 0.044 * inward})
    return out


def write(folder: Path, name: str, rows: Records, **changes: Any) -> None:
    cell = np.empty((len(rows), 1), object)
    cell[:, 0] = rows
    model = "poly4" if "poly4" in name else "quadratic"
    content = {"record_all": cell, "surface_type": "abs", "shape_id": "rect1", "ls_type": model, "vel": 10} | changes
    savemat(folder / name, {key: value for key, value in content.items() if value is not None})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, POLY4, records())
    write(tmp_path, QUADRATIC, records())
    return tmp_path


def refusal(folder: Path) -> BadData:
    with pytest.raises(BadData) as caught:
        read_mit_push(folder)
    sentence = str(caught.value)
    assert caught.value.file in sentence and f"field {caught.value.field}:" in sentence
    assert re.search(r"expected .+, got .+; .+\.$", sentence) and "\n" not in sentence
    return caught.value


def test_without_a_fault_it_reads(folder: Path) -> None:
    (cell,) = read_mit_push(folder)
    assert len(cell) == 12 and cell.name == "abs/rect1"
    np.testing.assert_allclose(cell.start_gap, 0, atol=1e-12)
    np.testing.assert_allclose(cell.errors(cell.published["poly4"])[0], 0.001 * np.sqrt(2))


def put(record: int, field: str, value: Any) -> Fault:
    return lambda rows: rows[record].update({field: value})


def scale(field: str, factor: Any, only: slice = slice(None)) -> Fault:
    return lambda rows: [row.update({field: row[field] * factor}) for row in rows[only]]


DEGREES = np.array([1, 1, 180 / np.pi])
MILLIMETRES = np.array([1000, 1000, 1])


@pytest.mark.parametrize(
    ("fault", "record", "field", "says"),
    [
        pytest.param(put(3, "final_pose_gt", np.zeros(2)), 3, "final_pose_gt", "expected 3 numbers, got float64 of shape (2,)", id="wrong shape"),
        pytest.param(put(4, "init_tip_pt", "near"), 4, "init_tip_pt", "expected 2 numbers", id="text"),
        pytest.param(lambda rows: rows[5].pop("init_tip_pt"), 5, "init_tip_pt", "expected a struct with the field init_tip_pt", id="missing field"),
        pytest.param(put(6, "init_pose_gt", np.array([0.3, np.nan, 0])), 6, "init_pose_gt", "finite values, got (0.3, nan, 0)", id="NaN pose"),
        pytest.param(put(7, "final_pose_sim", np.full(3, np.inf)), 7, "final_pose_sim", "expected finite values", id="infinite prediction"),
        pytest.param(scale("init_pose_gt", DEGREES), 0, "init_pose_gt", "looks like degrees: multiply by pi/180", id="a field in degrees"),
        pytest.param(scale("final_pose_sim", DEGREES), 0, "final_pose_sim", "yaw in radians within ±6.283", id="predictions in degrees"),
        pytest.param(
            scale("final_pose_gt", DEGREES, slice(8, 9)), 8, "final_pose_gt", "1 of 12 records are like this, this looks like degrees", id="one in degrees"
        ),
        pytest.param(scale("init_pose_gt", MILLIMETRES), 0, "init_pose_gt", "looks like millimetres: multiply by 0.001", id="a field in millimetres"),
        pytest.param(
            scale("init_tip_pt", 1000.0, slice(2, 3)), 2, "init_tip_pt", "1 of 12 records are like this, this looks like millimetres", id="one in millimetres"
        ),
        pytest.param(scale("init_tip_pt", -1.0, slice(9, 10)), 9, "init_tip_pt", "expected a tip that starts within 0.5 m", id="another frame"),
        pytest.param(put(10, "final_tip_pt", np.array([1.9, 0.0])), 10, "final_tip_pt", "expected a push of at most 1 m", id="long push"),
        pytest.param(put(1, "final_pose_gt", np.array([0.9, 0.0, 0.0])), 1, "final_pose_gt", "moves by at most 0.108 m", id="far slider"),
    ],
)
def test_faults_in_records(folder: Path, fault: Fault, record: int, field: str, says: str) -> None:
    for name in (POLY4, QUADRATIC):
        rows = records()
        fault(rows)
        write(folder, name, rows)
    error = refusal(folder)
    assert error.file.endswith(POLY4) and error.record == f"record {record}" and error.field == field
    assert says in str(error)


def test_small_angles_in_degrees_are_caught_by_the_turn_or_the_contact(folder: Path) -> None:
    """0.05 rad read as 2.9 is within pi: only the physics tells."""
    rows = records()
    base, turned = rows[0], np.array([0.35, 0.0, 0.05])
    along = np.array([np.cos(0.05), np.sin(0.05)])
    tip = turned[:2] + (0.045 + TIP_RADIUS) * along
    base |= {"init_pose_gt": turned, "init_tip_pt": tip, "final_tip_pt": tip - 0.044 * along}
    base |= {"final_pose_gt": np.append(turned[:2] - 0.044 * along, 0.05 * 180 / np.pi)}
    write(folder, POLY4, rows)
    error = refusal(folder)
    assert (error.record, error.field) == ("record 0", "final_pose_gt") and "quasi-static push of this length turns by at most" in str(error)


def test_a_tip_inside_the_slider_is_refused(folder: Path) -> None:
    rows = records()
    rows[3]["init_tip_pt"] = rows[3]["init_pose_gt"][:2] + 0.01
    write(folder, POLY4, rows)
    error = refusal(folder)
    assert (error.record, error.field) == ("record 3", "init_pose_gt") and "no deeper in the outline at the start" in str(error)


def test_unequal_files_are_refused(folder: Path) -> None:
    write(folder, QUADRATIC, records()[:9])
    error = refusal(folder)
    assert error.file.endswith(QUADRATIC) and error.record == "record 9" and f"expected 12 records as in {POLY4}, got 9" in str(error)
    rows = records()
    rows[4], rows[5] = rows[5], rows[4]
    write(folder, QUADRATIC, rows)
    error = refusal(folder)
    assert error.file.endswith(QUADRATIC) and (error.record, error.field) == ("record 4", "init_pose_gt")
    (folder / QUADRATIC).unlink()
    assert "expected quadratic's file beside it, got none" in str(refusal(folder))


@pytest.mark.parametrize("keep", [0, 100, 1000, -300])
def test_truncated_files_are_refused(folder: Path, keep: int) -> None:
    content = (folder / POLY4).read_bytes()
    (folder / POLY4).write_bytes(content[:keep])
    error = refusal(folder)
    assert error.file.endswith(POLY4) and (error.record, error.field) == ("every record", "record_all")
    assert "structwm fetch mit_push" in str(error)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"shape_id": "tri1"}, "shape_id", "expected 'rect1' as in the file's name, got 'tri1'"),
        ({"ls_type": None}, "ls_type", "expected 'poly4' as in the file's name, got None"),
        ({"record_all": None}, "record_all", "got none"),
        ({"vel": None}, "vel", "got None"),
    ],
)
def test_damaged_headers_are_refused(folder: Path, changes: dict[str, Any], field: str, says: str) -> None:
    write(folder, POLY4, records(), **changes)
    error = refusal(folder)
    assert error.field == field and says in str(error)


def test_other_files_are_no_data(tmp_path: Path) -> None:
    savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(DataUnavailable, match="found none; run `structwm fetch mit_push`"):
        read_mit_push(tmp_path)


def pushes(**changes: Any) -> Pushes:
    rows = records()
    arrays = {ours: np.stack([row[theirs] for row in rows]) for ours, theirs in [("init_pose", "init_pose_gt"), ("final_pose", "final_pose_gt")]}
    arrays |= {name: np.stack([row[f"{name}_pt"] for row in rows]) for name in ("init_tip", "final_tip")}
    values: dict[str, Any] = arrays | {"surface": "table", "shape": "rect1", "outline": shape_outline("rect1"), "tip_radius": TIP_RADIUS} | changes
    return Pushes(**values)


def test_any_engine_fills_the_same_container() -> None:
    """Yaws may come wrapped or not; a plain difference is the turn."""
    plain = pushes()
    shifted = pushes(
        init_pose=plain.init_pose + [0, 0, 2 * np.pi] * (plain.init_pose[:, 2:] < 0),
        final_pose=plain.final_pose - [0, 0, 2 * np.pi] * (plain.final_pose[:, 2:] > 0),
    )
    np.testing.assert_allclose(shifted.init_pose, plain.init_pose, atol=1e-12)
    np.testing.assert_allclose(shifted.final_pose, plain.final_pose, atol=1e-12)
    part = plain[np.arange(12) % 2 == 0]
    assert len(part) == 6 and len(plain[2:5]) == 3 and len(plain[[4]]) == 1
    np.testing.assert_array_equal(part.final_pose, plain.final_pose[::2])
    with pytest.raises(ValueError, match="give tip_speed"):
        plain.to_episodes()
    assert plain.to_episodes(tip_speed=0.02)[0].time[1] == pytest.approx(2.2)
    assert pushes(tip_speed=0.01, source="engine").to_episodes()[0].metadata.source == "engine"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"outline": shape_outline("rect1") * 1000}, "outline"),
        ({"tip_radius": 4.75}, "tip_radius"),
        ({"init_tip": np.zeros((3, 2))}, "init_tip"),
        ({"published": {"twin": np.zeros((12, 2))}}, "twin"),
        ({name: np.zeros((0, width)) for name, width in (("init_pose", 3), ("final_pose", 3), ("init_tip", 2), ("final_tip", 2))}, "init_pose"),
    ],
)
def test_the_container_refuses_too(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadData) as caught:
        pushes(**changes, source="engine")
    assert (caught.value.file, caught.value.field) == ("engine", field)
