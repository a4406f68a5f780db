"""Folders of posed images: what is written is read again, other conventions mean the same cameras, and what is wrong is named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from structwm.cli import main
from structwm.data import BadData, read_posed_images, write_posed_images
from structwm.data.obj import read_obj
from structwm.data.ply import read_ply
from structwm.data.splat_files import read_splats
from tests.traced_solids import cameras, club, photograph


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("club")
    write_posed_images(photograph(club(), cameras(width=72, height=60)), path)
    return path


def edited(folder, tmp_path, change):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = json.loads((folder / "cameras.json").read_text())
    change(said, tmp_path)
    (tmp_path / "cameras.json").write_text(json.dumps(said))
    return tmp_path


def test_written_and_read_again(folder):
    before, after = photograph(club(), cameras(width=72, height=60)), read_posed_images(folder)
    assert torch.equal(before.masks, after.masks) and torch.allclose(before.depth, after.depth) and (before.colors - after.colors).abs().max() < 0.003
    assert torch.allclose(before.camera.world_from_camera, after.camera.world_from_camera)


def test_other_conventions_mean_the_same(folder, tmp_path):
    def change(said, path):
        said |= {"axes": "opengl", "pixel_center": 0, "depth_scale": 0.0005}
        for k, view in enumerate(said["views"]):
            pose, matrix = np.array(view["world_from_camera"]), np.array(view["intrinsics"])
            pose[:3, 1:3] *= -1
            matrix[:2, 2] -= 0.5
            view |= {"world_from_camera": pose.tolist(), "intrinsics": matrix.tolist(), "depth": f"d{k}.png"}
            depth = np.load(path / f"depth_{k}.npz")["depth"]
            Image.fromarray(np.round(depth / 0.0005).astype(np.uint16)).save(path / f"d{k}.png")

    one, other = read_posed_images(folder), read_posed_images(edited(folder, tmp_path, change))
    assert torch.allclose(one.camera.world_from_camera, other.camera.world_from_camera, atol=1e-6)
    assert torch.allclose(one.camera.intrinsics, other.camera.intrinsics, atol=1e-4)
    assert (one.depth - other.depth).abs().max() < 0.0003


WRONG = {
    "axes: expected one of opencv, opengl": lambda said, path: said.update(axes="blender"),
    "view 2, field intrinsics: expected 3 rows": lambda said, path: said["views"][2].update(intrinsics=[[1, 2], [3, 4]]),
    "view 1, field mask: expected the name of a mask file": lambda said, path: said["views"][1].pop("mask"),
    "view 3, field depth: expected a picture that can be read": lambda said, path: (path / "depth_3.npz").unlink(),
    "view 4, field color: expected the size of the first view": lambda said, path: Image.new("RGB", (9, 9)).save(path / "color_4.png"),
    "expected pinhole cameras": lambda said, path: said["views"][0].update(world_from_camera=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
    "a list of at least one view": lambda said, path: said.update(views=[]),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_is_named(sentence, folder, tmp_path):
    with pytest.raises(BadData, match=sentence):
        read_posed_images(edited(folder, tmp_path, WRONG[sentence]))


def test_the_command_writes_everything(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    main(["reconstruct", str(folder), "--out", str(out), "--voxel", "0.003", "--points", "600", "--splats", "800", "--no-pieces"])
    assert "report.html" in capsys.readouterr().out
    assert len(read_ply(out / "points.ply")["vertex"]) > 300
    assert len(read_splats(out / "splats.ply").means) > 400
    (mesh,) = read_obj(out / "mesh.obj")
    assert float(club().signed_distance(mesh.vertices).abs().mean()) < 0.001
    springs = np.load(out / "springs.npz")
    assert springs["edges"].max() < len(springs["points"]) and springs["surface"] < len(springs["points"])
    page = (out / "report.html").read_text()
    assert "springs.npz" in page and "volume" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "needs a folder with cameras.json"),
        (["{}", "--rope", "2"], "3 vertices or more"),
        (["{}", "--voxel", "-1"], "above 0"),
        (["{}", "--support", "0", "0", "0", "1"], "not all 0"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, sentence, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", *(a.format(folder) for a in arguments), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
