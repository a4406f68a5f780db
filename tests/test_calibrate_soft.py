"""`structwm calibrate` of what deforms: from files to parameters, a report and a twin; refusals in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from structwm.cli import main
from structwm.demos import calibrating_soft
from structwm.geometry import quaternion_to_matrix, rotation_vector_to_quaternion, spring_edges
from structwm.geometry.camera import Camera
from structwm.physics import Rod, RodTwin, SpringBody, SpringTwin
from structwm.physics.saving import load_calibration
from structwm.physics.soft_shapes import RodShape, SpringShape, between, farthest, is_shape, read_shape
from structwm.render import render, splats_from_points
from structwm.training import load_model

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")
PICTURES = dict.fromkeys(("parameters", "search", "correlations", "over_time"), b"PNG")  # where drawing is not what is tested
DT, FRAMES = 0.03, 30
STIFFNESS = 1.5


def bar() -> Tensor:
    """Points (54, 3) of a bar, in the air."""
    return 0.02 * torch.cartesian_prod(torch.arange(6.0), torch.arange(3.0), torch.arange(3.0)).double() + torch.tensor([0.0, 0.0, 0.3])


def motion() -> Tensor:
    """Places of a hand at one end (T, 1, 3) [m]."""
    t = DT * torch.arange(FRAMES, dtype=torch.float64)
    path = bar()[:9].mean(0).expand(FRAMES, 1, 3).clone()
    path[:, 0, 2] += 0.05 * torch.sin(8 * t)
    path[:, 0, 1] += 0.04 * torch.sin(5 * t)
    return path


def recorded() -> dict[str, np.ndarray]:
    """The bar, of which the first nine points are held, as trackers and cameras see it."""
    points = bar()
    body = SpringBody(points, spring_edges(points, 0.036, 26), driven=(tuple(range(9)),))
    twin = SpringTwin(body, dt=DT, substeps=60, stages=4, values={"stiffness": STIFFNESS, "radius": 0.005})
    path = motion()
    with torch.no_grad():
        nodes = twin.rollout(twin.state(points), path[:, 0].diff(dim=0) / DT).states.positions
    generator = torch.Generator().manual_seed(0)
    tracks = nodes[:, 9::2] + 5e-4 * torch.randn(nodes[:, 9::2].shape, generator=generator, dtype=torch.float64)
    tracks[0] = nodes[0, 9::2]  # noise here would misplace each track on the body for good
    tracks[torch.rand(tracks.shape[:2], generator=generator) < 0.2] = torch.nan
    clouds = nodes.clone()
    clouds[torch.rand(clouds.shape[:2], generator=generator) < 0.4] = torch.nan
    held = {"held": np.arange(9), "held_counts": np.array([9])}
    return held | {"times": DT * np.arange(FRAMES), "controllers": path.numpy(), "tracks": tracks.numpy(), "clouds": clouds.numpy(), "nodes": nodes.numpy()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bar")
    points = bar()
    np.savez(folder / "springs.npz", points=points, edges=spring_edges(points, 0.036, 26), surface=54)
    arrays = recorded()
    np.savez(folder / "run.npz", **{name: arrays[name] for name in ("times", "controllers", "tracks", "clouds", "held", "held_counts")})
    return folder, folder / "run.npz"


def rewritten(files: tuple[Path, Path], folder: Path, **change: Any) -> Path:
    """The recording with other arrays; None leaves one out."""
    with np.load(files[1]) as content:
        arrays: Mapping[str, Any] = {name: content[name] for name in content.files} | change
    np.savez(folder / "changed.npz", **{name: value for name, value in arrays.items() if value is not None})
    return folder / "changed.npz"


def command(shape: Path | str, run: Path | str, folder: Path, *more: str) -> list[str]:
    return ["calibrate", str(shape), str(run), "--parameters", "stiffness,drag", "--evaluations", "30", "--iterations", "10", "--folder", str(folder), *more]


def test_it_finds_the_stiffness_and_keeps_the_twin(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command(*files, tmp_path, "--springs", "--spring-steps", "4"))
    shown = capsys.readouterr().out
    for words in (
        "54 particles of 54 points",
        "1 controllers that hold 9 particles",
        "frames 21 to 29",
        "90 % interval",
        "held still",
        "a stiffness of each spring",
    ):
        assert words in shown
    found = load_calibration(tmp_path)
    low, high = found.intervals(0.99)["stiffness"]
    assert low < STIFFNESS < high and found.values["stiffness"] == pytest.approx(STIFFNESS, rel=0.05)
    assert found.errors["held out"]["tracks"] < 0.1 * found.errors["persistence"]["tracks"]
    twin = load_model(tmp_path / "twin")
    assert isinstance(twin, SpringTwin) and twin.body.driven == (tuple(range(9)),)
    assert float(twin.values["stiffness"]) == pytest.approx(found.values["stiffness"])
    names = ("report.html", "parameters.png", "search.png", "correlations.png", "over_time.png", "runs_tracks.png", "runs_clouds.png", "calibration.json")
    assert set(names) <= {file.name for file in tmp_path.iterdir()}


def test_a_shape_in_another_place_is_found_and_a_large_one_is_thinned(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slanted bar, that no turn maps onto itself, from a scan in another frame."""
    monkeypatch.setattr(calibrating_soft, "draw_calibration", lambda *_, **__: PICTURES)
    monkeypatch.setattr(calibrating_soft, "calibration_page", lambda *_, **__: _Page())
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)))
    points = bar() @ turn.mT + torch.tensor([1.0, 0.0, 0.0])
    np.savez(tmp_path / "scan.npz", points=points, edges=spring_edges(points, 0.036, 26), surface=54)
    main(command(tmp_path / "scan.npz", files[1], tmp_path / "found", "--evaluations", "4", "--iterations", "0", "--grip", "0.03", "--points", "40"))
    shown = capsys.readouterr().out
    assert "40 particles of 54 points" in shown and "registered to the first frame" in shown


def test_the_shape_is_looked_for_where_that_is_asked_for(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Also in a recording that says where its points are; what it says of another shape's points is left aside, and so are these points' numbers."""
    nodes, shape = recorded()["nodes"], read_shape(files[0])
    assert isinstance(shape, SpringShape)

    def made(register: Any, **arrays: Any) -> calibrating_soft.Job:
        config = calibrating_soft.CalibrateSoftConfig(str(files[0]), str(rewritten(files, tmp_path, **arrays)), register=register)
        return calibrating_soft._spring_job(config, shape)

    there = {"positions": nodes[0] + 0.001, "velocities": np.full((54, 3), 0.2)}
    job = made("auto", **there)
    assert "its first frame is that of the recording" in job.words["body"] and "left aside" not in job.words
    assert bool((job.recording.state.velocities == 0.2).all())
    job = made("yes", **there)
    assert "registered to the first frame" in job.words["body"] and "that of the recording" not in job.words["body"]
    assert "says of 60 points is of another shape than this of 54" in made("auto", held=np.arange(50, 60), held_counts=np.array([10])).words["left aside"]
    for other in (np.concatenate((nodes[0], nodes[0] + 1)), nodes[0, :30]):
        job = made("auto", positions=other, held=np.arange(20, 29))
        assert f"says of {len(other)} points is of another shape than this of 54" in job.words["left aside"] and "where its file says" in job.words["body"]
        assert set(range(9)) <= set(job.twin.body.driven[0]) <= set(range(18))  # those near the controller, not those that the recording names


def test_a_kind_of_which_nothing_is_held_out_is_left_out(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tracker that was lost before the frames held out, whose tracks are still fitted to."""
    tracks = recorded()["tracks"]
    tracks[21:] = np.nan
    main([*command(files[0], rewritten(files, tmp_path, tracks=tracks), tmp_path / "out"), "--evaluations", "4", "--iterations", "0"])
    shown = capsys.readouterr().out
    assert "frames 21 to 29, predicted from the first frame; of tracks nothing was seen there" in shown and "nan" not in shown
    errors = load_calibration(tmp_path / "out").errors
    assert set(errors["calibration"]) == {"tracks", "cloud"} and set(errors["held out"]) == set(errors["persistence"]) == {"cloud"}
    assert " nan " not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


class _Page:
    def write(self, path: Path) -> Path:
        return path


def test_masks_alone(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating_soft, "draw_calibration", lambda *_, **__: PICTURES)
    monkeypatch.setattr(calibrating_soft, "calibration_page", lambda *_, **__: _Page())
    nodes = torch.from_numpy(recorded()["nodes"]).float()
    camera = Camera.look_at(torch.tensor([[0.05, -0.4, 0.4], [0.4, 0.1, 0.35]]), torch.tensor([[0.05, 0.02, 0.3]] * 2), width=48, height=40)
    masks = torch.stack([render(splats_from_points(frame), camera, antialiased=True).alpha for frame in nodes])
    run = rewritten(files, tmp_path, tracks=None, clouds=None, masks=masks, intrinsics=camera.intrinsics, world_from_camera=camera.world_from_camera)
    main(command(files[0], run, tmp_path / "out", "--evaluations", "12", "--iterations", "2"))
    shown = capsys.readouterr().out
    assert "masks of 2 cameras" in shown and "the first frame has fewer than four points of clouds and tracks" in shown
    errors = load_calibration(tmp_path / "out").errors
    assert errors["held out"]["masks"] < 0.5 * errors["persistence"]["masks"]
    assert load_calibration(tmp_path / "out").values["stiffness"] == pytest.approx(STIFFNESS, rel=0.3)


def test_a_rod_by_its_vertices(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating_soft, "draw_calibration", lambda *_, **__: PICTURES)
    monkeypatch.setattr(calibrating_soft, "calibration_page", lambda *_, **__: _Page())
    twin = RodTwin(Rod.even(0.6, 7, driven=(0, -1)), dt=0.02, substeps=2, values={"bend_stiffness": 5e-3, "drag": 0.5})
    share = torch.linspace(0, 1, 7, dtype=torch.float64)
    start = torch.stack((0.4 * share, 0 * share, -0.19 * (torch.pi * share).sin()), -1)
    time = 0.02 * torch.arange(60, dtype=torch.float64)
    pace = 0.4 * torch.stack([(rate * time).sin() for rate in (3.0, 5.0, 7.0, 4.0, 6.0, 5.5)], -1)
    with torch.no_grad():
        tracks = twin.rollout(twin.state(start), pace).states.positions
    tracks[20:24, 3] = torch.nan
    np.savez(tmp_path / "run.npz", times=0.02 * np.arange(61), tracks=tracks)
    (tmp_path / "rod.json").write_text(json.dumps({"rod": {}}))
    main(
        [*command(tmp_path / "rod.json", tmp_path / "run.npz", tmp_path / "out")[:3], "--parameters", "bend_stiffness,drag", "--folder", str(tmp_path / "out")]
    )
    assert "7 vertices, 60.0 cm, driven 0, 6" in capsys.readouterr().out
    found = load_calibration(tmp_path / "out")
    assert found.values["bend_stiffness"] == pytest.approx(5e-3, rel=0.1) and isinstance(found.twin, RodTwin)
    assert found.errors["held out"]["tracks"] < 0.05 * found.errors["persistence"]["tracks"]


def test_real_cables_by_name(data_dir: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir("deform_rope")
    monkeypatch.setattr(calibrating_soft, "draw_calibration", lambda *_, **__: PICTURES)
    monkeypatch.setattr(calibrating_soft, "calibration_page", lambda *_, **__: _Page())
    options = ["--parameters", "bend_stiffness,drag", "--runs", "0:3", "--evaluations", "8", "--iterations", "2", "--folder", str(tmp_path)]
    main(["calibrate", "DLO2", "deform_rope", *options])
    shown = capsys.readouterr().out
    assert "12 vertices" in shown and "curved" in shown
    found = load_calibration(tmp_path)
    assert found.errors["held out"]["tracks"] < 0.5 * found.errors["persistence"]["tracks"]


def test_natural_curvature_is_asked_for_by_one_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = RodTwin(Rod.even(0.5, 5, twists=True, driven=(0, -1)), dt=0.01)
    assert calibrating_soft._names(twin, ("drag,curvatures",)) == ["drag", *twin.curvatures] and len(twin.curvatures) == 6
    with pytest.raises(ValueError, match="finds curvatures of rods with a director alone"):
        calibrating_soft._names(RodTwin(Rod.even(0.5, 5), dt=0.01), ("curvatures",))
    (tmp_path / "rod.json").write_text(json.dumps({"rod": {"director": [0, None, 0]}}))
    with pytest.raises(SystemExit):
        main(["calibrate", str(tmp_path / "rod.json"), "run.npz", "--parameters", "drag"])
    assert "director" in capsys.readouterr().err


def test_runs_held_out_have_the_numbers_of_the_recording() -> None:
    config = calibrating_soft.CalibrateSoftConfig("DLO2", "deform_rope", runs="40:54")
    told, held, words = calibrating_soft._set_aside(torch.zeros(14, 5, 3, 3), torch.arange(40, 54), config)
    assert held is not None and len(told) + len(held) == 14
    assert all(40 <= int(number) < 54 for number in words["held out"].removeprefix("runs ").removesuffix(", whole").split(", "))


def test_the_shape_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--parameters", "stiffness", "shape.npz", "run.npz"])
    assert "needs the scene or shape first, then the recording, then options such as --parameters" in capsys.readouterr().err


def test_shapes_are_told_from_rigid_scenes(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "scene.json").write_text(json.dumps({"bodies": []}))
    (tmp_path / "rod.json").write_text(json.dumps({"vertices": [[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]], "length": 0.2, "radius": 0.003}))
    assert is_shape(files[0]) and is_shape(files[0] / "springs.npz") and is_shape(tmp_path / "rod.json") and is_shape("DLO1")
    assert not is_shape(tmp_path / "scene.json") and not is_shape("cube.urdf") and not is_shape(files[1])
    rod, springs = read_shape(tmp_path / "rod.json"), read_shape(files[0])
    assert isinstance(rod, RodShape) and rod.radius == 0.003 and isinstance(springs, SpringShape) and springs.points.shape == (54, 3)


def test_points_follow_near_particles_rigidly() -> None:
    points = bar()
    kept = farthest(points, 30, torch.tensor([4]))
    assert 4 in kept.tolist() and len(kept) == 30
    corners, weights = between(points, points[kept])
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)))
    before = (weights.unsqueeze(-1) * points[kept][corners]).sum(1)
    after = (weights.unsqueeze(-1) * (points[kept] @ turn.mT + 1.0)[corners]).sum(1)
    assert torch.allclose(after, before @ turn.mT + 1.0, atol=1e-9)
    assert float((before - points).norm(dim=-1).mean()) < 0.004  # a fifth of their spacing, though half of them are gone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": None}, "field times: expected an array of 1 axes, got none among clouds, controllers, held, held_counts, tracks"),
        ({"times": np.array([0.0, 0.03, 0.1] + [0.03 * k + 0.1 for k in range(1, 28)])}, "evenly spaced times"),
        ({"controllers": np.full((FRAMES, 1, 3), np.nan)}, "controller 0 hidden in 30, the first of them frame 0"),
        ({"tracks": None, "clouds": None}, "expected tracks, clouds, depth or masks after the first frame, got none"),
        ({"tracks": np.zeros((FRAMES, 5))}, "field tracks: expected an array of 3 axes"),
        ({"clouds": np.full((FRAMES, 9, 3), np.nan), "tracks": np.full((FRAMES, 9, 3), np.nan)}, "after the first frame, got none"),
        ({"tracks": None, "clouds": np.where(np.arange(FRAMES)[:, None, None] < 9, bar(), np.nan)}, "holds out frames in which nothing was seen"),
        ({"masks": np.zeros((FRAMES, 2, 8, 8))}, "field intrinsics: expected (2, 3, 3) beside images of 2 cameras, got none"),
        (
            {"masks": np.zeros((FRAMES, 1, 8, 8)), "depth": np.zeros((FRAMES, 1, 8, 9)), "intrinsics": np.eye(3), "world_from_camera": np.eye(4)},
            "field masks: expected (30, 1, 8, 9) as of depth, got (30, 1, 8, 8)",
        ),
        ({"positions": np.zeros((54, 2))}, "field positions: expected (N, 3), got (54, 2)"),
        ({"positions": np.zeros(54)}, "field positions: expected an array of 2 axes, got (54,)"),
        ({"positions": np.zeros((54, 3)), "velocities": np.zeros((53, 3))}, "field velocities: expected (54, 3), got (53, 3)"),
        ({"velocities": np.full((54, 3), np.nan)}, "field velocities: expected finite velocities"),
        ({"nodes": np.zeros((FRAMES - 1, 54, 3))}, "field nodes: expected 30 frames of points (n, 3), got (29, 54, 3)"),
        ({"nodes": np.zeros((FRAMES, 54, 3)), "velocities": np.zeros((9, 3))}, "field velocities: expected (54, 3), got (9, 3)"),
        ({"nodes": np.zeros((FRAMES, 5, 3))}, "field held: expected numbers of 5 points, from 0, got 5"),
        ({"held": np.arange(-1, 8)}, "field held: expected numbers of points, from 0, got -1"),
        ({"controllers": np.zeros((FRAMES, 1, 3)), "held": None}, "finds no particle within"),
    ],
)
def test_recordings_that_cannot_be_are_refused(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, words: str) -> None:
    run = rewritten(files, tmp_path, **change)
    with pytest.raises(SystemExit) as end:
        main(command(files[0], run, tmp_path / "out"))
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--parameters", "stickiness"], "no parameter 'stickiness'; it has mass, stiffness"),
        (["--held-out", "1.5"], "held-out from 0 to below 1"),
        (["--grip", "0.02", "--attach", "0.03"], "takes --grip or --attach, not both"),
        (["--points", "2"], "needs points of 4 or more, got 2"),
        (["--register", "yes"], "cannot look for the shape: the first frame has fewer than four points"),
    ],
)
def test_options_that_cannot_be_are_refused(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str) -> None:
    nodes = recorded()["nodes"]
    later = {name: np.concatenate((np.full_like(nodes[:1], np.nan), nodes[1:])) for name in ("tracks", "clouds")}
    run = rewritten(files, tmp_path, positions=nodes[0], **later)  # nothing is seen in the first frame
    with pytest.raises(SystemExit) as end:
        main([*command(files[0], run, tmp_path / "out"), *more])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_gap_of_a_controller_is_filled_and_a_foreign_shape_is_refused(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from structwm.physics.soft_runs import read_soft_run

    path = motion()
    hidden = path.clone()
    hidden[10:12] = torch.nan
    run = read_soft_run(rewritten(files, tmp_path, controllers=hidden))
    assert run.filled == 2 and float((run.controllers - path).abs().max()) < 0.005
    np.savez(tmp_path / "large.npz", points=20 * bar(), edges=spring_edges(bar(), 0.036, 26))
    with pytest.raises(SystemExit):
        main(command(tmp_path / "large.npz", files[1], tmp_path / "out"))
    assert "The body is not found at the observed points" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text('{"springs": {"points": [[0, 0, 0]]}}')
    with pytest.raises(SystemExit):
        main(command(tmp_path / "broken.json", files[1], tmp_path / "out"))
    assert "broken.json, the shape, field" in capsys.readouterr().err
