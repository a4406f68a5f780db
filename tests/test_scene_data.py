"""The recorded scenes: that the files are the pinned ones, and that cameras, photos and geometry fit each other."""

from __future__ import annotations

import builtins
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structwm.data import BadData, DataUnavailable, RopePhotos, load_garden, load_rope_photos, read_cloud
from structwm.data.registry import data_source

SETS = {"gs_dynamics_rope": 13, "gsplat_garden": 1, "playcanvas_splats": 1}


@pytest.mark.parametrize("name", SETS)
def test_files_are_the_pinned_ones(data_dir: Callable[[str], Path], name: str) -> None:
    source, folder = data_source(name), data_dir(name)
    assert source.name == name and len(source.files) == SETS[name] and source.licence in ("MIT", "Apache-2.0")
    assert source.url.startswith("https://raw.githubusercontent.com/") and f"/{source.commit}/" in source.url and re.fullmatch("[0-9a-f]{7,40}", source.commit)
    assert dict(source.files) == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in source.files}


@pytest.fixture(scope="module")
def rope(data_dir: Callable[[str], Path]) -> RopePhotos:
    pytest.importorskip("PIL")
    return load_rope_photos(data_dir("gs_dynamics_rope"))


def seen(masks: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Which share of the pixels (V, N, 2) falls on the masks (V, H, W)."""
    height, width = masks.shape[1:]
    x, y = pixels.floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    hit = masks[torch.arange(len(masks))[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return (hit & inside).float().mean(-1)


def test_the_rope_lies_where_the_photos_show_it(rope: RopePhotos) -> None:
    assert rope.camera.batch_size == (4,) and (rope.camera.width, rope.camera.height) == (640, 480)
    assert rope.images.shape == (4, 480, 640, 3) and rope.images.dtype == torch.float32 and rope.masks.shape == (4, 480, 640) and rope.masks.dtype == torch.bool
    assert rope.images.min() == 0 and rope.images.max() == 1 and bool(((rope.masks.float().mean((1, 2)) - 0.016).abs() < 0.003).all())
    pixels, depth = rope.camera.project(rope.splats.means)
    assert bool((depth > 0.3).all()) and bool((depth < 1.5).all())
    assert bool((seen(rope.masks, pixels) > 0.997).all())
    aside, _ = rope.camera.project(rope.splats.means + torch.tensor([0.0, 0.0, 0.02]))
    assert bool((seen(rope.masks, aside) < 0.9).all())


def test_the_rope_has_the_colors_of_the_photos(rope: RopePhotos) -> None:
    """What is in front of a pixel's splat differs, but on average the splats are as bright as the photo there."""
    pixels, _ = rope.camera.project(rope.splats.means)
    x, y = pixels.floor().long().unbind(-1)
    photo = rope.images[torch.arange(4)[:, None], y, x].mean(0)
    assert (photo.mean(0) - rope.splats.colors.mean(0)).abs().max() < 0.1
    both = torch.stack((photo.mean(-1), rope.splats.colors.mean(-1)))
    assert torch.corrcoef(both)[0, 1] > 0.3


def test_the_cloud_of_the_rope_is_in_the_same_world(data_dir: Callable[[str], Path], rope: RopePhotos) -> None:
    pytest.importorskip("open3d")
    cloud = read_cloud(data_dir("gs_dynamics_rope") / "pcd.ply")
    pixels, _ = rope.camera.project(cloud.positions.float())
    np.testing.assert_allclose(seen(rope.masks, pixels).numpy(), [0.87, 0.89, 0.90, 0.82], atol=0.02)
    gap = torch.cdist(rope.splats.means[::9].double(), cloud.positions).min(1).values
    assert gap.median() < 0.004


def test_garden(data_dir: Callable[[str], Path]) -> None:
    garden = load_garden(data_dir("gsplat_garden"))
    assert garden.positions.shape == garden.colors.shape == (138766, 3) and garden.camera.batch_size == (3,)
    assert garden.colors.min() == 0 and garden.colors.max() == 1 and (garden.camera.width, garden.camera.height) == (648, 420)
    content = np.load(data_dir("gsplat_garden") / "test_garden.npz")
    torch.testing.assert_close(garden.camera.camera_from_world, torch.from_numpy(content["viewmats"]), rtol=0, atol=1e-6)
    pixels, depth = garden.camera.project(garden.positions)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor([648, 420])).all(-1)
    assert bool((inside.float().mean(-1) > 0.4).all())


def spoiled(source: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of a set in which one file is another, or missing."""
    target.mkdir()
    for file in source.iterdir():
        if file.name != name:
            (target / file.name).symlink_to(file)
    if content is not None:
        (target / name).write_bytes(content)
    return target


def test_bad_rope_files(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = data_dir("gs_dynamics_rope")
    small = tmp_path / "small.png"
    image.new("RGB", (64, 48)).save(small)
    np.save(tmp_path / "skew.npy", 2 * np.load(folder / "R_list.npy"))
    np.save(tmp_path / "few.npy", np.load(folder / "t_list.npy")[:3])
    cases = [
        ("img_2.png", None, DataUnavailable, "expected img_2.png of gs_dynamics_rope in .*run `structwm fetch gs_dynamics_rope`"),
        ("gs_orig.splat", None, DataUnavailable, "expected gs_orig.splat"),
        ("R_list.npy", None, DataUnavailable, "expected R_list.npy"),
        ("img_1.png", (folder / "img_1.png").read_bytes()[:5000], BadData, "img_1.png, every record, field pixels: expected a complete PNG file"),
        ("img_1.png", b"", BadData, "field pixels: expected a complete PNG file"),
        ("mask_0.png", small.read_bytes(), BadData, "field size: expected 640 x 480 px, got 64 x 48 px"),
        ("intr_list.npy", b"\x93NUMPY", BadData, "intr_list.npy, every record, field intr: expected a complete numpy file"),
        ("t_list.npy", (tmp_path / "few.npy").read_bytes(), BadData, r"field t: expected finite numbers \(4, 3\), got float64 \(3, 3\)"),
        ("R_list.npy", (tmp_path / "skew.npy").read_bytes(), BadData, "field cameras: expected four pinhole cameras, got camera world_from_camera"),
        ("gs_orig.splat", b"\0" * 33, BadData, "expected a multiple of 32 bytes"),
    ]
    for number, (name, content, kind, text) in enumerate(cases):
        with pytest.raises(kind, match=text) as caught:
            load_rope_photos(spoiled(folder, tmp_path / str(number), name, content))
        assert "\n" not in str(caught.value)


def test_photos_need_pillow(data_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("PIL"):
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="expected Pillow for reading photos, but it is not installed; run `pip install pillow`"):
        load_rope_photos(data_dir("gs_dynamics_rope"))


def test_bad_garden_files(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    file = data_dir("gsplat_garden") / "test_garden.npz"
    content = dict(np.load(file))
    with pytest.raises(DataUnavailable, match="expected test_garden.npz of gsplat_garden in .*run `structwm fetch gsplat_garden`"):
        load_garden(tmp_path)
    small = content | {"means3d": content["means3d"][:9], "colors": content["colors"][:9]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({name: value for name, value in small.items() if name != "Ks"}, "field Ks, height, width: expected a complete numpy file with means3d.*KeyError"),
        (small | {"colors": small["colors"][:8]}, r"field colors: expected bytes \(9, 3\) as means3d, got uint8 \(8, 3\)"),
        (small | {"means3d": np.full((9, 3), np.nan)}, "field means3d: expected finite numbers"),
        (small | {"viewmats": small["viewmats"][0]}, r"field viewmats: expected finite numbers \(-1, 4, 4\)"),
        (small | {"viewmats": small["viewmats"][:2]}, "field viewmats, Ks: expected pinhole cameras"),
        (small | {"viewmats": np.zeros((3, 4, 4))}, "field viewmats, Ks: expected pinhole cameras"),
        (small | {"width": np.array(0)}, "field viewmats, Ks: expected pinhole cameras, got camera size"),
    ]
    for number, (arrays, text) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / "test_garden.npz", **arrays)
        with pytest.raises(BadData, match=text) as caught:
            load_garden(folder)
        assert "\n" not in str(caught.value)
    (tmp_path / "cut").mkdir()
    shutil.copyfile(file, tmp_path / "cut" / "test_garden.npz")
    with open(tmp_path / "cut" / "test_garden.npz", "r+b") as stream:
        stream.truncate(100_000)
    with pytest.raises(BadData, match="expected a complete numpy file"):
        load_garden(tmp_path / "cut")


def test_without_a_folder_the_set_is_found(data_dir: Callable[[str], Path]) -> None:
    data_dir("gsplat_garden")
    assert len(load_garden().positions) == 138766
