"""Saved calibrations are those that were saved, to the last bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from structwm.physics import Prior, Settings, calibrate
from structwm.physics.bullet_twin import BulletTwin
from structwm.physics.calibration import Calibration
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_runs import rigid_recording
from structwm.physics.saving import load_calibration, save_calibration
from structwm.state import Splats
from tests.sliding_cubes import DT, WORLD, slides
from tests.test_calibration import NAMES, recorded


def assert_same(one: Calibration[Any], other: Calibration[Any]) -> None:
    """Every number alike, bit for bit."""
    for name in ("z", "covariance", "information"):
        assert torch.equal(getattr(one, name), getattr(other, name)) and getattr(one, name).dtype == getattr(other, name).dtype, name
    assert torch.equal(one.prior.mean, other.prior.mean) and torch.equal(one.prior.covariance, other.prior.covariance)
    assert (one.start is None) == (other.start is None) and (one.start is None or torch.equal(one.start, other.start))
    assert [asdict(parameter) for parameter in one.space.parameters] == [asdict(parameter) for parameter in other.space.parameters]
    plain = [item.name for item in fields(one) if item.name not in ("twin", "space", "z", "covariance", "prior", "information", "start")]
    for name in plain:
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name  # nan equals nan so
    assert type(one.twin) is type(other.twin) and one.twin.values.keys() == other.twin.values.keys()
    for name, value in one.twin.values.items():
        assert torch.equal(value, other.twin.values[name]) and value.dtype == other.twin.values[name].dtype, name


@pytest.fixture(scope="module")
def calibrated() -> Calibration[RigidTwin]:
    twin = RigidTwin(WORLD, dt=DT, substeps=4)
    recording = rigid_recording(twin, slides(5), start_spread={"cube.vx": 0.01, "cube.wz": 0.05})
    settings = Settings(evaluations=24, iterations=3, explore=0)
    return calibrate(twin, recording, ("friction", "gravity"), settings=settings, progress=False)


def test_a_calibration_of_a_world_comes_back_whole(calibrated: Calibration[RigidTwin], tmp_path: Path) -> None:
    folder = save_calibration(calibrated, tmp_path / "new" / "folder")
    again = load_calibration(folder)
    assert_same(calibrated, again)
    assert calibrated.start is not None
    assert (again.twin.spec.dt, again.twin.substeps) == (DT, 4)
    assert again.intervals(0.8) == calibrated.intervals(0.8) and again.condition == calibrated.condition
    first, second = (c.sample(3, seed=1) for c in (calibrated, again))
    state = calibrated.twin.state(torch.tensor([0.0, 0, 0.05, 1, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0, 0, 1])).unsqueeze(0).unsqueeze(0).expand(1, 3)
    rolled = [ensemble.rollout(state, torch.zeros(1, 5, 0)).states.configuration for ensemble in (first, second)]
    assert torch.equal(*rolled)
    save_calibration(again, tmp_path / "copy")
    for name in ("calibration.json", "calibration.safetensors", "scene.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    shown = json.loads((folder / "calibration.json").read_text())
    assert shown["values"] == calibrated.values and shown["intervals"]["level"] == 0.9


def test_odd_numbers_and_appearance_come_back(calibrated: Calibration[RigidTwin], tmp_path: Path) -> None:
    splats = Splats(
        means=torch.rand(3, 3), rotations=torch.rand(3, 4), scales=torch.rand(3, 3), opacities=torch.rand(3), colors=torch.rand(3, 3), batch_size=()
    )
    twin = RigidTwin(WORLD, dt=DT, substeps=4, values=calibrated.twin.values, appearance={"cube": splats})
    odd = replace(calibrated, twin=twin, dof=math.inf, losses=(1e30, math.inf), errors={"held out": {"cube.position": math.nan}}, explored=True)
    again = load_calibration(save_calibration(odd, tmp_path))
    assert_same(odd, again)
    assert torch.equal(again.twin.appearance["cube"].means, splats.means) and again.twin.appearance["cube"].harmonics is None


def test_another_engine_comes_back(calibrated: Calibration[RigidTwin], tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    twin = BulletTwin(WORLD, dt=DT, substeps=4)
    twin = twin.with_parameters({name: value for name, value in calibrated.twin.values.items() if name in twin.physical})
    again = load_calibration(save_calibration(replace(calibrated, twin=twin), tmp_path))
    assert type(again.twin) is BulletTwin and float(again.twin.values["cube.friction"]) == float(calibrated.twin.values["cube.friction"])


def test_other_twins_are_given(tmp_path: Path) -> None:
    twin, recording = recorded(10)
    calibration = calibrate(twin, recording, NAMES[:2], settings=Settings(evaluations=0, iterations=2), progress=False)
    folder = save_calibration(calibration, tmp_path)
    assert_same(calibration, load_calibration(folder, twin=twin))
    with pytest.raises(ValueError, match="a PushTwin is not made again from files; give it as twin="):
        load_calibration(folder)
    with pytest.raises(ValueError, match="of a PushTwin, got a RigidTwin"):
        load_calibration(folder, twin=RigidTwin(WORLD, dt=DT))


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "calibration.safetensors").unlink(), "no calibration that can be read"),
    (lambda folder: (folder / "calibration.safetensors").write_bytes(b"short"), "no calibration that can be read"),
    (lambda folder: (folder / "calibration.json").write_text("{"), "no calibration that can be read"),
    (lambda folder: (folder / "calibration.json").write_text('{"format": "structwm-calibration", "version": 99}'), "of version 1"),
    (lambda folder: (folder / "scene.json").unlink(), "no calibration that can be read"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damaged_folders_are_refused(calibrated: Calibration[RigidTwin], tmp_path: Path, damage: Callable[[Path], Any], words: str) -> None:
    save_calibration(calibrated, tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=words):
        load_calibration(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a calibration in"):
        load_calibration(tmp_path / "nowhere")


def test_a_journal_is_of_one_scene_and_one_spread(tmp_path: Path) -> None:
    """What results depend on, beside the values: the shape of things, substeps, how far off starts may be, the size of errors."""
    runs = slides(3)
    quick = Settings(evaluations=0, iterations=1, explore=0)

    def go(substeps: int = 4, half: float = 0.05, **options: Any) -> None:
        from structwm.physics.rigid_world import BoxShape, Geometry

        body = replace(WORLD.bodies[0], geometries=(Geometry(BoxShape((half, 0.05, 0.05))),))
        twin = RigidTwin(replace(WORLD, bodies=(body,)), dt=DT, substeps=substeps)
        recording = rigid_recording(twin, runs, **({"scale": (0.005, 0.05)} | options))
        calibrate(twin, recording, ("friction",), held_out=None, prior=Prior.of(twin.space(("friction",))), settings=quick, folder=tmp_path, progress=False)

    go()
    go()
    for change in ({"substeps": 5}, {"half": 0.06}, {"start_spread": {"cube.vx": 0.1}}, {"scale": (0.01, 0.05)}):
        with pytest.raises(ValueError, match="holds a calibration with another"):
            go(**change)
