"""The pushed T: that images, masks, cameras, poses, meshes and surfels fit each other, and that bad files are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.data import BadData, DataUnavailable, PushTImages, load_push_t
from structwm.data.obj import read_obj
from structwm.data.ply import write_ply
from structwm.data.push_t_images import THICKNESS
from structwm.data.registry import data_source
from structwm.geometry.mesh import Mesh
from structwm.geometry.rotations import to_world

JSON = "dataset/sim_push_t1/dynamic_train0.json"
IMAGE = "dataset/sim_push_t1/dynamic_data_train/train0/m_0_3.png"
ASSETS = "envs/asset/cube_t"


@pytest.fixture(scope="module")
def pushed(data_dir: Callable[[str], Path]) -> PushTImages:
    pytest.importorskip("PIL")
    return load_push_t(data_dir("pinwm_push_t"), size=400)


def test_files_are_the_pinned_ones(data_dir: Callable[[str], Path]) -> None:
    source, folder = data_source("pinwm_push_t"), data_dir("pinwm_push_t")
    assert source.licence == "MIT" and len(source.files) == 38 and f"/{source.commit}/" in source.url
    assert dict(source.files) == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in source.files}


def test_shapes_and_units(pushed: PushTImages) -> None:
    assert pushed.images.shape == (32, 400, 400, 3) and pushed.images.dtype == torch.float32 and pushed.images.min() >= 0 and pushed.images.max() == 1
    assert pushed.masks.shape == (32, 400, 400) and pushed.masks.dtype == torch.float32 and pushed.masks.min() == 0 and pushed.masks.max() == 1
    assert pushed.camera.batch_size == (32,) and (pushed.camera.width, pushed.camera.height) == (400, 400)
    assert pushed.camera.intrinsics[0, 0, 0] == pytest.approx(965.685424949238 / 2) and pushed.camera.positions[0].tolist() == pytest.approx([0.3, -0.3, 0.3])
    assert pushed.times.tolist() == pytest.approx([frame / 24 for frame in range(32)]) and pushed.mass == 1
    assert pushed.poses.dtype == torch.float64 and pushed.poses[0].tolist() == [0, 0, 0.025, 1, 0, 0, 0]
    torch.testing.assert_close(pushed.poses[:, 3:].norm(dim=1), torch.ones(32, dtype=torch.float64), rtol=0, atol=1e-12)
    assert pushed.poses[-1, :2].tolist() == pytest.approx([-0.14294, -0.09825], abs=1e-5)


def seen(masks: Tensor, pixels: Tensor) -> Tensor:
    """Which share of the pixels (n, N, 2) falls on the masks (n, S, S)."""
    size = masks.shape[-1]
    x, y = pixels.floor().long().unbind(-1)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    hit = masks[torch.arange(len(masks))[:, None], y.clamp(0, size - 1), x.clamp(0, size - 1)] > 0
    return (hit & inside).float().mean(-1)


def test_the_surfels_lie_where_the_images_show_the_block(pushed: PushTImages) -> None:
    """Which proves the camera's axes, the order of the quaternions and the surfels' frame."""
    poses = pushed.poses.float()
    pixels, depth = pushed.camera.project(to_world(poses, pushed.surfels.means.expand(32, -1, 3)))
    assert bool((depth > 0.2).all()) and bool((depth < 1.0).all()) and bool((seen(pushed.masks, pixels) > 0.996).all())
    aside, _ = pushed.camera.project(to_world(poses, (pushed.surfels.means + torch.tensor([0.0, 0.0, 0.02])).expand(32, -1, 3)))
    assert bool((seen(pushed.masks, aside) < 0.95).all())
    assert pushed.surfels.means.shape == (5398, 3) and pushed.surfels.scales[:, 2].tolist() == pytest.approx([THICKNESS] * 5398)


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


def test_the_meshes_are_the_silhouettes(pushed: PushTImages) -> None:
    assert volume(pushed.mesh) == pytest.approx(4e-4) and [volume(piece) for piece in pushed.pieces] == pytest.approx([2.1e-4, 2.1e-4], rel=0.03)
    corners = torch.cat([piece.vertices for piece in pushed.pieces])
    pixels, _ = pushed.camera.project(to_world(pushed.poses.float(), corners.expand(32, -1, 3)))
    for frame in range(32):
        y, x = torch.nonzero(pushed.masks[frame] > 0, as_tuple=True)
        extent = torch.tensor([[x.min(), y.min()], [x.max() + 1, y.max() + 1]])
        assert bool((torch.stack([pixels[frame].amin(0), pixels[frame].amax(0)]) - extent).abs().max() < 1.5)


def test_the_pushers_path(pushed: PushTImages) -> None:
    path = pushed.pusher_positions
    assert path.shape == (32, 2) and path[0].tolist() == pytest.approx([0.05, 0.05]) and path[-1].tolist() == pytest.approx([-0.006, -0.025], abs=1e-4)
    torch.testing.assert_close(path[1] - path[0], 5 / 24 * (pushed.pusher_goal - pushed.pusher_start))


def test_size_and_background(pushed: PushTImages, data_dir: Callable[[str], Path]) -> None:
    small = load_push_t(data_dir("pinwm_push_t"), size=100)
    averaged = pushed.images.reshape(32, 100, 4, 100, 4, 3).mean((2, 4))
    torch.testing.assert_close(small.images, averaged, rtol=0, atol=1e-6)
    torch.testing.assert_close(small.camera.intrinsics[:, :2], pushed.camera.intrinsics[:, :2] / 4)
    floor = load_push_t(data_dir("pinwm_push_t"), size=100, background=None)
    assert small.images[0, 0, 0].tolist() == [1, 1, 1] and floor.images[0, -1, 0].tolist() == pytest.approx([162 / 255, 186 / 255, 224 / 255])
    covered = small.masks == 1
    torch.testing.assert_close(small.images[covered], floor.images[covered])
    for options, text in (({"size": 300}, "divides 800 px"), ({"size": 0}, "divides 800 px"), ({"size": 10, "background": 2.0}, r"background in \[0, 1\]")):
        with pytest.raises(ValueError, match=text):
            load_push_t(data_dir("pinwm_push_t"), **options)  # type: ignore[arg-type]


def spoiled(folder: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of the set whose file `name` has other content, or is missing."""
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(folder)).symlink_to(file)
    (target / name).unlink()
    if content is not None:
        (target / name).write_bytes(content)
    return target


def changed(content: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(content | changes).encode()


def test_bad_files(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = data_dir("pinwm_push_t")
    good = json.loads((folder / JSON).read_text())
    images, poses = good["image_datas"], good["pose_datas"]
    image.new("RGBA", (64, 64)).save(tmp_path / "small.png")
    write_ply(tmp_path / "splats.ply", {"vertex": (["x", "scale_2"], torch.zeros(1, 2).numpy())})
    lame = [images[0] | {"c2w": [[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}, *images[1:]]
    cases: list[tuple[str, bytes | None, type[Exception], str]] = [
        (JSON, None, DataUnavailable, "expected dataset/.*json of pinwm_push_t in .*run `structwm fetch pinwm_push_t`"),
        (IMAGE, None, DataUnavailable, "expected dataset/.*m_0_3.png of pinwm_push_t"),
        ("point_cloud_2dgs.ply", None, DataUnavailable, "expected point_cloud_2dgs.ply"),
        (f"{ASSETS}/cube_t_mesh.urdf", None, DataUnavailable, "expected envs/asset/cube_t/cube_t_mesh.urdf"),
        (JSON, (folder / JSON).read_bytes()[:900], BadData, "field the whole file: expected a complete JSON file, got JSONDecodeError"),
        (JSON, b"[1]", BadData, "field keys: expected lists ee_init_position, .*got list"),
        (JSON, changed(good, pose_datas=5), BadData, "field keys"),
        (JSON, changed(good, pose_datas=poses[:-1]), BadData, "field image_datas: expected an image for each of 31 poses, got 32 frames from 0 on"),
        (JSON, changed(good, pose_datas=[[0, 0, 0, 0, 0, 0.1, 1], *poses[1:]]), BadData, "pose 0, field pose_datas: expected a quaternion.*got 1.00499"),
        (JSON, changed(good, pose_datas=[[0, 0, 0], *poses[1:]]), BadData, r"pose 0, field pose_datas: expected finite numbers \(7,\), got \[0, 0, 0\]"),
        (JSON, changed(good, pose_datas=[[0, float("nan")] + [0] * 5, *poses[1:]]), BadData, "pose 0, field pose_datas: expected finite numbers"),
        (JSON, changed(good, ee_goal_position=["a", 1]), BadData, "every record, field ee_goal_position: expected finite numbers"),
        (JSON, changed(good, image_datas=[{"file_path": "../../etc/passwd"}, *images[1:]]), BadData, "image 0, field file_path: expected dynamic_data_train"),
        (JSON, changed(good, image_datas=[images[0] | {"time": 1.0}, *images[1:]]), BadData, "field time: expected frames 24 a second"),
        (JSON, changed(good, image_datas=[images[0] | {"c2w": [[1, 2], [3]]}, *images[1:]]), BadData, r"image 0, field c2w: expected finite numbers \(3, 4\)"),
        (JSON, changed(good, image_datas=lame), BadData, "field c2w, intrinsic: expected pinhole cameras, got camera world_from_camera"),
        (IMAGE, (folder / IMAGE).read_bytes()[:3000], BadData, "m_0_3.png, every record, field pixels: expected a complete PNG file"),
        (IMAGE, (tmp_path / "small.png").read_bytes(), BadData, "field size: expected RGBA, 800 x 800 px, got RGBA, 64 x 64 px"),
        ("point_cloud_2dgs.ply", (folder / "point_cloud_2dgs.ply").read_bytes()[:9000], BadData, "point_cloud_2dgs.ply"),
        ("point_cloud_2dgs.ply", (tmp_path / "splats.ply").read_bytes(), BadData, "field scale_2: expected 2-D Gaussians, which have two scales"),
        (f"{ASSETS}/cube_t_mesh.urdf", b"<robot><link>", BadData, "the link, field mass: expected a complete URDF file, got ParseError"),
        (f"{ASSETS}/cube_t_mesh.urdf", b"<robot/>", BadData, "the link, field mass: expected a finite mass above 0 kg, got nan"),
        (f"{ASSETS}/cube_t.obj", b"v 0 0\n", BadData, "cube_t.obj, line 1, field v: expected 3 coordinates, got 'v 0 0'"),
    ]
    for number, (name, content, kind, text) in enumerate(cases):
        with pytest.raises(kind, match=text) as caught:
            load_push_t(spoiled(folder, tmp_path / str(number), name, content), size=10)
        assert "\n" not in str(caught.value), text
        shutil.rmtree(tmp_path / str(number))


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/2 3/3\n"


def test_obj_files(tmp_path: Path) -> None:
    file = tmp_path / "a.obj"
    file.write_text(f"# two\no first\n{TRIANGLE}\no second\nv 0 0 1\nv 1 0 1\nv 0 1 1\nvn 0 0 1\nf 4//1 5//1 6//1\nf 6 5 4\n")
    first, second = read_obj(file)
    assert first.faces.tolist() == [[0, 1, 2]] and second.faces.tolist() == [[0, 1, 2], [2, 1, 0]] and second.vertices[:, 2].tolist() == [1, 1, 1]
    file.write_text(TRIANGLE)
    assert len(read_obj(file)) == 1
    for text, message in (
        ("", "the whole file, field f: expected objects with triangles, got no object"),
        ("o a\n", "expected objects with triangles, got an object without"),
        (TRIANGLE + "f 1 2 3 1\n", "line 5, field f: expected the indices of 3 vertices, got 'f 1 2 3 1'"),
        (TRIANGLE + "f 1 2 9\n", "object 0, field v, f: expected triangles of the object's own finite vertices"),
        (TRIANGLE + "o b\nv 0 0 2\nf 1 2 4\n", "object 1, field v, f: expected triangles"),
        ("v 0 0 inf\n" + TRIANGLE, "object 0, field v, f"),
    ):
        file.write_text(text)
        with pytest.raises(BadData, match=message) as caught:
            read_obj(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadData, match="expected a file that can be read"):
        read_obj(tmp_path / "none.obj")
