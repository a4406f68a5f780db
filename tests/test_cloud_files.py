"""Files of point clouds by Open3D: what is kept, and a sentence where Open3D would warn, or invent points."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structwm.data import BadData, PointCloud, read_cloud, write_cloud, write_splats
from structwm.state import Splats

pytest.importorskip("open3d")


def made(count: int = 40, *, colors: bool = True, normals: bool = True) -> PointCloud:
    g = torch.Generator().manual_seed(0)
    positions = torch.randn(count, 3, dtype=torch.float64, generator=g)
    paint = torch.randint(0, 256, (count, 3), generator=g).double() / 255 if colors else None
    return PointCloud(positions, paint, torch.nn.functional.normalize(positions, dim=-1) if normals else None)


@pytest.mark.parametrize(
    ("suffix", "kept", "tolerance"),
    [(".ply", ("colors", "normals"), 0.0), (".pcd", ("colors", "normals"), 2e-7), (".xyz", (), 5.1e-11), (".pts", ("colors",), 5.1e-11), (".PLY", (), 0.0)],
)
def test_round_trips(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, kept: tuple[str, ...], tolerance: float) -> None:
    cloud = made(colors="colors" in kept, normals="normals" in kept)
    write_cloud(cloud, tmp_path / ("a" + suffix))
    again = read_cloud(tmp_path / ("a" + suffix))
    assert again.positions.dtype == torch.float64 and len(again) == 40
    torch.testing.assert_close(again.positions, cloud.positions, rtol=tolerance, atol=tolerance)
    for name in ("colors", "normals"):
        if name in kept:
            torch.testing.assert_close(getattr(again, name), getattr(cloud, name), rtol=0, atol=2e-7 if name == "normals" else 1e-12)
        else:
            assert getattr(again, name) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a" + suffix]
    out = capfd.readouterr()
    assert not out.out and not out.err


def test_colors_become_bytes(tmp_path: Path) -> None:
    cloud = PointCloud(torch.zeros(5, 3), torch.tensor([[0.0, 1.0, 0.5]] * 5), None)
    write_cloud(cloud, tmp_path / "a.ply")
    assert (read_cloud(tmp_path / "a.ply").colors - cloud.colors).abs().max() <= 0.5001 / 255


def test_real_clouds(data_dir: Callable[[str], Path]) -> None:
    rope = read_cloud(data_dir("gs_dynamics_rope") / "pcd.ply")
    assert rope.positions.shape == (3491, 3) and rope.colors.shape == (3491, 3) and rope.normals is None
    scan = read_cloud(data_dir("small_gicp_pair") / "source.ply")
    assert scan.positions.shape == (69792, 3) and scan.colors is None
    with pytest.raises(BadData, match="field x: expected points, got compressed splats; read it with `read_splats`"):
        read_cloud(data_dir("playcanvas_splats") / "guitar.compressed.ply")


def test_splats_are_the_cloud_of_their_means(tmp_path: Path) -> None:
    means = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    splats = Splats(means=means, rotations=torch.ones(9, 4), scales=torch.ones(9, 3), opacities=torch.ones(9), colors=torch.ones(9, 3), batch_size=[])
    write_splats(splats, tmp_path / "a.ply")
    cloud = read_cloud(tmp_path / "a.ply")
    assert torch.equal(cloud.positions.float(), means) and cloud.normals is None


def test_points_without_a_measurement(tmp_path: Path) -> None:
    """A PCD file of a depth camera holds NaN where nothing was seen."""
    header = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA ascii\n"
    (tmp_path / "a.pcd").write_text(header + "1 2 3\nnan nan nan\n4 5 6\n")
    with pytest.raises(BadData, match="record 1, field position: expected finite numbers, .*drop_invalid=True"):
        read_cloud(tmp_path / "a.pcd")
    assert read_cloud(tmp_path / "a.pcd", drop_invalid=True).positions.tolist() == [[1, 2, 3], [4, 5, 6]]


def color_ply(kind: str, value: float) -> bytes:
    names = [*(f"float {axis}" for axis in "xyz"), *(f"{kind} {color}" for color in ("red", "green", "blue"))]
    header = "".join(f"property {name}\n" for name in names)
    return f"ply\nformat ascii 1.0\nelement vertex 1\n{header}end_header\n1 2 3 {value} {value} {value}\n".encode()


def test_colors_as_floats_are_fractions(tmp_path: Path) -> None:
    """Open3D alone makes all of them nearly black."""
    for kind, value, wanted in (("float", 0.25, 0.25), ("double", 1.0, 1.0), ("uchar", 51, 0.2), ("uchar", 1, 1 / 255)):
        (tmp_path / "a.ply").write_bytes(color_ply(kind, value))
        np.testing.assert_allclose(read_cloud(tmp_path / "a.ply").colors, [[wanted] * 3])
    (tmp_path / "a.ply").write_bytes(color_ply("float", 0.5).replace(b" green", b" g"))
    assert read_cloud(tmp_path / "a.ply").colors is None


PLY = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\nproperty double y\nproperty double z\nend_header\n1 2 3\n4 5 6\n"
PCD = b"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA ascii\n1 2 3\n4 5 6\n"
BAD = {
    "empty.ply": (b"", "expected a PLY file, got 0 bytes"),
    "cut.ply": (PLY[:-6], "field count: expected 6 numbers, as the header says, got 3"),
    "noz.ply": (PLY.replace(b"double z", b"double q"), "field z: expected a property z of the vertices, got properties x, y, q"),
    "none.ply": (PLY.replace(b"vertex 2", b"vertex 0")[:-12], "field points: expected at least one, got none"),
    "empty.pcd": (b"", "field DATA: expected a header of a PCD file that ends with a line DATA, got none in 0 bytes"),
    "few.pcd": (PCD.replace(b"POINTS 2", b"POINTS 3").replace(b"WIDTH 2", b"WIDTH 3"), "field POINTS: expected 9 numbers for 3 points, got 6"),
    "cut.pcd": (PCD[:-1], "field last line: expected an end of line"),
    "short.pcd": (PCD.replace(b"ascii", b"binary"), "expected 24 bytes for 2 points, got 12"),
    "packed.pcd": (PCD.replace(b"ascii", b"binary_compressed"), "field POINTS: expected .* bytes for 2 points, got 12"),
    "size.pcd": (PCD.replace(b"SIZE 4 4 4", b"SIZE 4 4 four"), "expected names and whole numbers"),
    "minus.pcd": (PCD.replace(b"POINTS 2", b"POINTS -2"), "expected WIDTH times HEIGHT, 2 times 1, got -2"),
    "line.pcd": (PCD.replace(b"VIEWPOINT", b"VIEWP INT"), "expected each of VERSION"),
    "kind.pcd": (PCD.replace(b"TYPE F F F", b"TYPE F F Q"), "expected one name, type and size for every field"),
    "no_z.pcd": (PCD.replace(b"FIELDS x y z", b"FIELDS x y w"), "expected x, y and z, got no z"),
    "word.pcd": (PCD.replace(b"4 5 6", b"4 x 6"), "expected numbers separated by spaces"),
    "empty.xyz": (b"", "field length: expected points, got 0 bytes of them"),
    "word.xyz": (b"1 2 3\na b c\n4 5 6\n", "field points: expected 3 points, got 2 that Open3D understands"),
    "cut.xyz": (b"1 2 3\n4 5 6", "expected an end of line after the last number, got none, so that number may be cut"),
    "comment.xyz": (b"# nothing\n", "field points: expected at least one, got none"),
    "empty.pts": (b"\n", "the first line, field count: expected the number of points, 0 as lines follow, got none"),
    "few.pts": (b"3\n1 2 3\n4 5 6\n", "expected the number of points, 2 as lines follow, got '3'"),
    "nocount.pts": (b"1 2 3\n4 5 6\n", "expected the number of points, 1 as lines follow, got '1 2 3'"),
    "uneven.pts": (b"2\n1 2 3\n4 5 6 7\n", "expected as many numbers on every line, got 3 to 4"),
    "word.pts": (b"2\n1 2 3\n4 x 6\n", "expected numbers separated by spaces"),
    "short.ply": (color_ply("ushort", 300), "record 0, field color: expected bytes or fractions of 1, got .* of the most"),
    "float.ply": (color_ply("float", 300), "record 0, field color: expected bytes or fractions of 1, got .* of the most"),
    "nan.pts": (b"2\n1 2 3\n4 nan 6\n", "record 1, field position: expected finite numbers"),
    "a.las": (b"LASF", "field suffix: expected one of .ply, .pcd, .xyz, .pts, got '.las'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_sentence_for_every_bad_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    content, text = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=text) as caught:
        read_cloud(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)
    out = capfd.readouterr()
    assert not out.out and not out.err


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".xyz", ".pts"])
def test_no_cut_file_gives_other_points(tmp_path: Path, suffix: str) -> None:
    """Open3D alone fills up with zeros or with what lay in memory."""
    cloud = made(6, colors=suffix != ".xyz", normals=False)
    file = tmp_path / ("a" + suffix)
    write_cloud(cloud, file)
    content, whole = file.read_bytes(), read_cloud(file).positions
    for length in range(0, len(content), 3):
        file.write_bytes(content[:length])
        try:
            found = read_cloud(file).positions
        except BadData:
            continue
        assert suffix == ".xyz" and torch.equal(found, whole[: len(found)])


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.pcd").mkdir()
    for name in ("none.ply", "none.pcd", "none.xyz", "folder.pcd"):
        with pytest.raises(BadData, match="field path: expected a file that can be read"):
            read_cloud(tmp_path / name)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a cloud without colors and normals, for which .xyz has no place"):
        write_cloud(made(), tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="expected a cloud without normals, for which .pts has no place"):
        write_cloud(made(), tmp_path / "a.pts")
    with pytest.raises(ValueError, match="expected a suffix .ply, .pcd, .xyz, .pts, got '.las'"):
        write_cloud(made(), tmp_path / "a.las")
    with pytest.raises(ValueError, match="expected at least one point"):
        write_cloud(PointCloud(torch.zeros(0, 3)), tmp_path / "a.ply")
    with pytest.raises(ValueError, match="expected finite positions"):
        write_cloud(PointCloud(torch.full((2, 3), math.nan)), tmp_path / "a.ply")
    with pytest.raises(ValueError, match=r"expected colors in \[0, 1\], got 255 to 255"):
        write_cloud(PointCloud(torch.zeros(2, 3), torch.full((2, 3), 255.0)), tmp_path / "a.ply")
    with pytest.raises(OSError, match="expected a folder that can be written to"):
        write_cloud(made(), tmp_path / "none" / "a.ply")
    with pytest.raises(ValueError, match=r"cloud positions: expected \(N, 3\), got \(3,\)"):
        PointCloud(torch.zeros(3))
    with pytest.raises(ValueError, match=r"cloud colors: expected \(2, 3\) as the positions, got \(3, 3\)"):
        PointCloud(torch.zeros(2, 3), torch.zeros(3, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModuleNotFoundError("No module named 'open3d'", name="open3d"), r"the module open3d is missing; run `pip install 'structwm\[clouds\]'`"),
        (OSError("libusb-1.0.so.0: cannot open shared object file"), r"a library of the system is missing .*; on Debian run `apt-get install libusb-1.0-0`"),
        (ImportError("libGL.so.1: cannot open shared object file"), r"on Debian run `apt-get install libgl1`"),
    ],
)
def test_without_open3d_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open3d":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: read_cloud(tmp_path / "a.ply"), lambda: write_cloud(made(), tmp_path / "a.ply")):
        with pytest.raises(ImportError, match=text) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_arrays_are_copies(tmp_path: Path) -> None:
    """Nothing points into Open3D's memory."""
    write_cloud(made(), tmp_path / "a.ply")
    cloud = read_cloud(tmp_path / "a.ply")
    before = cloud.positions.clone()
    read_cloud(tmp_path / "a.ply").positions.zero_()
    np.testing.assert_array_equal(cloud.positions.numpy(), before.numpy())
