"""Files of splats: what they hold, that nothing is lost on the way, and a sentence for every file that cannot be right."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structwm.data import BadData, read_splats, write_splats
from structwm.geometry.rotations import normalize_quaternion
from structwm.state import Splats

C0 = 0.28209479177387814
FIELDS = ("means", "rotations", "scales", "opacities", "colors", "harmonics")
COUNTS = (0, 3, 8, 15)


def made(count: int = 300, *, degree: int = 0, seed: int = 0, **others: Any) -> Splats:
    g = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.randn(count, 3, generator=g),
        rotations=torch.randn(count, 4, generator=g),
        scales=(torch.randn(count, 3, generator=g) - 4).exp(),
        opacities=torch.rand(count, generator=g),
        colors=1.4 * torch.rand(count, 3, generator=g) - 0.2,
        harmonics=torch.randn(count, COUNTS[degree], 3, generator=g) if degree else None,
        **others,
        batch_size=[],
    )


def same(first: Splats, second: Splats) -> bool:
    return all((getattr(first, name) is None and getattr(second, name) is None) or torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def text_ply(names: list[str], rows: list[list[Any]], *, kind: str = "float", style: str = "ascii", extra: str = "") -> bytes:
    header = ["ply", f"format {style} 1.0", "comment by hand", f"element vertex {len(rows)}", *(f"property {kind} {name}" for name in names)]
    head = ("\n".join(header) + "\n" + extra + "end_header\n").encode()
    if style == "ascii":
        return head + "".join(" ".join(map(repr, row)) + "\n" for row in rows).encode()
    order = "<" if style == "binary_little_endian" else ">"
    return head + np.array(rows).astype(order + ("f4" if kind == "float" else "f8")).tobytes()


NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
ROW = [1.0, 2.0, 3.0, 1.0, 0.0, -1.0, 0.0, math.log(0.5), math.log(0.25), 0.0, 0.5, 0.0, 0.0, -1.0]


# The layout of the reference implementation


@pytest.mark.parametrize("style", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_a_file_by_hand(tmp_path: Path, style: str, kind: str) -> None:
    """Any order of properties, others between them, and another element behind."""
    names = ["f_rest_" + str(i) for i in range(8, -1, -1)] + list(reversed(NAMES)) + ["nx", "confidence"]
    row = [float(i) for i in range(8, -1, -1)] + list(reversed(ROW)) + [7.0, 8.0]
    (tmp_path / "a.ply").write_bytes(text_ply(names, [row, row], style=style, kind=kind))
    splats = read_splats(tmp_path / "a.ply")
    torch.testing.assert_close(splats.means, torch.tensor([[1.0, 2.0, 3.0]] * 2))
    torch.testing.assert_close(splats.rotations, torch.tensor([[0.5, 0.0, 0.0, -1.0]] * 2))
    torch.testing.assert_close(splats.scales, torch.tensor([[0.5, 0.25, 1.0]] * 2))
    torch.testing.assert_close(splats.opacities, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(splats.colors, torch.tensor([[0.5 + C0, 0.5, 0.5 - C0]] * 2))
    torch.testing.assert_close(splats.harmonics[1], torch.tensor([[0.0, 3.0, 6.0], [1.0, 4.0, 7.0], [2.0, 5.0, 8.0]]))
    assert splats.batch_size == () and splats.features is None and splats.mask is None and splats.means.dtype == torch.float32


@pytest.mark.parametrize("style", ["ascii", "binary_little_endian"])
def test_faces_behind_the_splats_are_ignored(tmp_path: Path, style: str) -> None:
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    (tmp_path / "a.ply").write_bytes(text_ply(NAMES, [ROW] * 3, style=style, extra=faces) + (b"3 0 1 2\n" if style == "ascii" else b"\x03" + bytes(12)))
    assert len(read_splats(tmp_path / "a.ply").means) == 3


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_came_from_a_file_comes_again_bit_for_bit(tmp_path: Path, degree: int) -> None:
    rng = np.random.default_rng(degree)
    names = NAMES + [f"f_rest_{i}" for i in range(3 * COUNTS[degree])]
    rows = rng.normal(size=(20_000, len(names))) * rng.choice([0.01, 1.0, 8.0], size=(20_000, 1))
    (tmp_path / "a.ply").write_bytes(text_ply(names, rows.tolist(), style="binary_little_endian"))
    first = read_splats(tmp_path / "a.ply")
    order = write_splats(first, tmp_path / "b.ply")
    second = read_splats(tmp_path / "b.ply")
    assert same(first, second) and torch.equal(order, torch.arange(20_000))
    write_splats(second, tmp_path / "c.ply")
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "c.ply").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(width=32, min_value=-87, max_value=87), min_size=5, max_size=5))
def test_any_stored_value_comes_again_bit_for_bit(tmp_path: Path, values: list[float]) -> None:
    near = [float(np.nextafter(np.float32(value), np.float32(side))) for value in (*values, math.log(0.5), 0.0) for side in (-99, value, 99)]
    rows = [[v, v, v, v, v / 50, v / 9, v, v, v / 3, v / 20, v or 1.0, v, v, v] for v in near]
    (tmp_path / "a.ply").write_bytes(text_ply(NAMES, rows, style="binary_little_endian"))
    first = read_splats(tmp_path / "a.ply")
    write_splats(first, tmp_path / "b.ply")
    assert same(first, read_splats(tmp_path / "b.ply"))


def test_what_came_from_elsewhere_comes_again_to_rounding(tmp_path: Path) -> None:
    splats = made(5000, degree=3)
    splats.opacities[:3], splats.scales[:2] = torch.tensor([0.0, 1.0, 1e-40]), torch.tensor([[0.0, 1e-30, 1e30], [1e-44, 3e38, 1.0]])
    write_splats(splats, tmp_path / "a.ply")
    again = read_splats(tmp_path / "a.ply")
    for name in ("means", "rotations", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(splats, name))
    torch.testing.assert_close(again.colors, splats.colors, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(again.opacities, splats.opacities, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(again.scales, splats.scales, rtol=5e-6, atol=0)  # half a step of a float32 logarithm near 88
    assert again.opacities[:2].tolist() == [0, 1] and again.scales[0, 0] == 0
    double = read_splats(tmp_path / "a.ply").to(torch.float64)
    write_splats(double, tmp_path / "b.ply")
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_another_reader_finds_the_same(tmp_path: Path) -> None:
    """Open3D's reader of splats: names, logarithms, channel order and all."""
    open3d = pytest.importorskip("open3d")
    splats = made(degree=2)
    write_splats(splats, tmp_path / "a.ply")
    other = {name: torch.from_numpy(value.numpy()) for name, value in open3d.t.io.read_point_cloud(str(tmp_path / "a.ply")).point.items()}
    assert torch.equal(other["positions"], splats.means) and torch.equal(other["rot"], splats.rotations) and torch.equal(other["f_rest"], splats.harmonics)
    torch.testing.assert_close(other["scale"], splats.scales)
    torch.testing.assert_close(other["opacity"][:, 0].sigmoid(), splats.opacities)
    torch.testing.assert_close(0.5 + C0 * other["f_dc"], splats.colors)
    write_splats(splats, tmp_path / "a.splat", drop_harmonics=True)
    other = {name: torch.from_numpy(value.numpy()) for name, value in open3d.t.io.read_point_cloud(str(tmp_path / "a.splat")).point.items()}
    mine = read_splats(tmp_path / "a.splat")
    assert torch.equal(other["positions"], splats.means) and torch.equal(other["scale"], splats.scales)
    torch.testing.assert_close(normalize_quaternion(other["rot"]), mine.rotations, rtol=0, atol=1e-6)
    torch.testing.assert_close(0.5 + C0 * other["f_dc"], mine.colors)


# Records of 32 bytes


def test_a_record_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.splat").write_bytes(struct.pack("<6f8B", 1, 2, 3, 0.5, 0.25, 0.125, 255, 0, 51, 102, 128 + 64, 128, 0, 128))
    splats = read_splats(tmp_path / "a.splat")
    assert splats.means.tolist() == [[1, 2, 3]] and splats.scales.tolist() == [[0.5, 0.25, 0.125]]
    torch.testing.assert_close(splats.colors, torch.tensor([[1.0, 0.0, 0.2]]))
    torch.testing.assert_close(splats.opacities, torch.tensor([0.4]))
    torch.testing.assert_close(splats.rotations, torch.tensor([[1.0, 0.0, -2.0, 0.0]]) / math.sqrt(5))


def test_records_round_no_more_than_they_must(tmp_path: Path) -> None:
    splats = made(4000)
    write_splats(splats, tmp_path / "a.splat")
    again = read_splats(tmp_path / "a.splat")
    assert torch.equal(again.means, splats.means) and torch.equal(again.scales, splats.scales)
    assert (again.opacities - splats.opacities).abs().max() <= 0.5001 / 255
    assert (again.colors - splats.colors.clamp(0, 1)).abs().max() <= 0.5001 / 255
    unit = normalize_quaternion(splats.rotations)
    chord = (again.rotations - unit).norm(dim=-1)
    plain = normalize_quaternion((128 * unit + 128).round().clamp(0, 255) - 128)
    assert chord.max() < 0.008 and chord.mean() < 0.9 * (plain - unit).norm(dim=-1).mean()
    write_splats(again, tmp_path / "b.splat")
    assert (tmp_path / "a.splat").read_bytes() == (tmp_path / "b.splat").read_bytes()


def test_the_rope_is_written_as_it_was(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    file = data_dir("gs_dynamics_rope") / "gs_orig.splat"
    splats = read_splats(file)
    assert splats.means.shape == (8957, 3)
    write_splats(splats, tmp_path / "a.splat")
    assert (tmp_path / "a.splat").read_bytes() == file.read_bytes()


# Chunks of 256


def slow_splat(words: list[int], chunk: list[float]) -> dict[str, list[float]]:
    """One record of a compressed file in plain Python."""
    p, q, s, c = words

    def spread(word: int, low: int, high: int) -> list[float]:
        shares = [(word >> 21) / 2047, (word >> 11 & 1023) / 1023, (word & 2047) / 2047]
        return [a * (1 - t) + b * t for a, b, t in zip(chunk[low : low + 3], chunk[high : high + 3], shares, strict=True)]

    parts = [((q >> shift & 1023) / 1023 - 0.5) * math.sqrt(2) for shift in (20, 10, 0)]
    parts.insert(q >> 30, math.sqrt(max(0.0, 1 - sum(part**2 for part in parts))))
    color = [(c >> shift & 255) / 255 for shift in (24, 16, 8)]
    if len(chunk) == 18:
        color = [a * (1 - t) + b * t for a, b, t in zip(chunk[12:15], chunk[15:18], color, strict=True)]
    scales = [math.exp(value) for value in spread(s, 6, 9)]
    return {"means": spread(p, 0, 3), "rotations": parts, "scales": scales, "opacities": [(c & 255) / 255], "colors": color}


def compressed_parts(file: Path) -> tuple[bytes, np.ndarray, np.ndarray, bytes]:
    content = file.read_bytes()
    start = content.index(b"end_header\n") + 11
    header = content[:start].decode()
    chunks, count = (int(header.split(f"element {name} ")[1].split()[0]) for name in ("chunk", "vertex"))
    width = header.split("element vertex")[0].count("property")
    split = start + 4 * width * chunks
    extremes = np.frombuffer(content, "<f4", chunks * width, start).reshape(chunks, width)
    return content[:start], extremes, np.frombuffer(content, "<u4", 4 * count, split).reshape(count, 4), content[split + 16 * count :]


def test_the_guitar(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """A real file: read as in plain Python, and written again with the same words in the same order."""
    file = data_dir("playcanvas_splats") / "guitar.compressed.ply"
    splats = read_splats(file)
    assert splats.means.shape == (90854, 3) and splats.harmonics is None
    _, extremes, words, _ = compressed_parts(file)
    for record in np.random.default_rng(0).integers(0, 90854, 200):
        for name, wanted in slow_splat(words[record].tolist(), extremes[record // 256].tolist()).items():
            np.testing.assert_allclose(getattr(splats, name)[record].reshape(-1), wanted, rtol=3e-7, atol=3e-7)
    order = write_splats(splats, tmp_path / "a.compressed.ply")
    assert torch.equal(order, torch.arange(90854)) and same(splats, read_splats(tmp_path / "a.compressed.ply"))
    _, again, words_again, _ = compressed_parts(tmp_path / "a.compressed.ply")
    assert np.array_equal(extremes, again) and np.array_equal(words, words_again)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 256, 257, 3000])
def test_compressed_within_its_steps(tmp_path: Path, degree: int, count: int) -> None:
    splats = made(count, degree=degree)
    order = write_splats(splats, tmp_path / "a.compressed.ply")
    assert torch.equal(order.sort().values, torch.arange(count))
    again = read_splats(tmp_path / "a.compressed.ply")
    wanted = Splats(**{name: getattr(splats, name)[order] for name in FIELDS if getattr(splats, name) is not None}, batch_size=[])
    for start in range(0, count, 256):
        part = slice(start, start + 256)
        for name, log, steps in (("means", False, (2047, 1023, 2047)), ("scales", True, (2047, 1023, 2047)), ("colors", False, (255, 255, 255))):
            have, want = (getattr(splats_, name)[part].double() for splats_ in (again, wanted))
            have, want = (have.log(), want.log()) if log else (have, want)
            step = (want.max(0).values - want.min(0).values) / torch.tensor(steps, dtype=torch.float64)
            assert ((have - want).abs() <= 0.5001 * step + 2e-6).all()
    assert (again.opacities - wanted.opacities).abs().max() <= 0.5001 / 255
    turn = (again.rotations * normalize_quaternion(wanted.rotations)).sum(-1).abs()
    assert turn.min() > 1 - 3e-6 and (again.rotations.norm(dim=-1) - 1).abs().max() < 1e-6
    if degree:
        assert (again.harmonics - wanted.harmonics.clamp(-4, 4)).abs().max() <= 1.001 / 32
    second = write_splats(again, tmp_path / "b.compressed.ply")
    assert torch.equal(second, torch.arange(count)) and same(again, read_splats(tmp_path / "b.compressed.ply"))


def test_scattered_splats_are_put_in_chunks_of_neighbors(tmp_path: Path) -> None:
    """Chunks of splats in any order span the world; sorted, steps are several times as fine."""
    splats = made(20_000)
    order = write_splats(splats, tmp_path / "a.compressed.ply")
    error = (read_splats(tmp_path / "a.compressed.ply").means - splats.means[order]).abs().mean()
    extent = splats.means.max(0).values - splats.means.min(0).values
    assert error < 0.3 * (extent / torch.tensor([2047, 1023, 2047])).mean() / 4
    assert not torch.equal(order, torch.arange(20_000))


def test_chunks_without_colors(tmp_path: Path) -> None:
    """The older form of twelve numbers a chunk: colors are fractions of 255 themselves."""
    write_splats(made(300), tmp_path / "a.compressed.ply")
    header, extremes, words, _ = compressed_parts(tmp_path / "a.compressed.ply")
    for name in ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"):
        header = header.replace(f"property float {name}\n".encode(), b"")
    (tmp_path / "b.ply").write_bytes(header + extremes[:, :12].tobytes() + words.tobytes())
    splats = read_splats(tmp_path / "b.ply")
    for record in range(0, 300, 37):
        wanted = slow_splat(words[record].tolist(), extremes[record // 256, :12].tolist())
        np.testing.assert_allclose(splats.colors[record], wanted["colors"], rtol=1e-6)


def test_harmonics_in_bytes(tmp_path: Path) -> None:
    """A byte stands for the middle of what is rounded to it, its ends for -4 and 4; red comes first."""
    splats = made(2, degree=1)
    splats.harmonics = torch.tensor([[[-9.0, -4.0, -3.97], [0.0, 1.0, 2.0], [3.96, 3.98, 9.0]]] * 2)
    write_splats(splats, tmp_path / "a.compressed.ply")
    codes = compressed_parts(tmp_path / "a.compressed.ply")[3]
    assert list(codes[:9]) == [0, 128, 254, 0, 160, 255, 0, 192, 255]
    wanted = torch.tensor([[-4.0, -4.0, -4.0], [0.015625, 1.015625, 2.015625], [3.953125, 4.0, 4.0]])
    torch.testing.assert_close(read_splats(tmp_path / "a.compressed.ply").harmonics[0], wanted)


def test_nearly_equal_parts_of_a_quaternion_do_not_drift(tmp_path: Path) -> None:
    splats = made(5000)
    splats.rotations = torch.tensor([1.0, 1.0, -1.0, 1.0]) + 0.004 * torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    splats.rotations[:9] = torch.tensor([1.0, 0.0, 0.0, 0.0]).roll(1)
    write_splats(splats, tmp_path / "a.compressed.ply")
    first = read_splats(tmp_path / "a.compressed.ply")
    write_splats(first, tmp_path / "b.compressed.ply")
    assert torch.equal(first.rotations, read_splats(tmp_path / "b.compressed.ply").rotations)


# What formats have no place for


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".compressed.ply"])
def test_masked_splats_are_left_out(tmp_path: Path, suffix: str) -> None:
    splats = made(50, mask=torch.arange(50) % 3 > 0)
    splats.means[0], splats.rotations[3], splats.scales[6] = math.nan, 0.0, -1.0  # padding may be anything
    order = write_splats(splats, tmp_path / ("a" + suffix))
    again = read_splats(tmp_path / ("a" + suffix))
    assert order.tolist() == [i for i in range(50) if i % 3] and len(again.means) == 33 and again.mask is None
    torch.testing.assert_close(again.means, splats.means[order], rtol=0, atol=0.005)


def test_features_harmonics_and_batches_are_not_lost(tmp_path: Path) -> None:
    splats = made(5, degree=1, features=torch.zeros(5, 2))
    for suffix in (".ply", ".splat", ".compressed.ply"):
        with pytest.raises(ValueError, match="expected splats without features, for which no format has a place, got some; .*drop_features=True"):
            write_splats(splats, tmp_path / ("a" + suffix))
        with pytest.raises(ValueError, match=r"expected the splats of one world, means \(N, 3\), got means \(2, 5, 3\)"):
            write_splats(torch.stack([splats, splats]), tmp_path / ("a" + suffix), drop_features=True)
    with pytest.raises(ValueError, match="expected splats without harmonics, for which .splat has no place"):
        write_splats(splats, tmp_path / "a.splat", drop_features=True)
    assert not list(tmp_path.iterdir())
    write_splats(splats, tmp_path / "a.splat", drop_features=True, drop_harmonics=True)
    write_splats(splats, tmp_path / "a.ply", drop_features=True)
    assert read_splats(tmp_path / "a.splat").harmonics is None and torch.equal(read_splats(tmp_path / "a.ply").harmonics, splats.harmonics)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("means", math.nan, "expected finite numbers, got means .* of splat 2"),
        ("scales", math.inf, "expected finite numbers, got scales"),
        ("scales", -1.0, "expected scales of 0 m or more, got scales"),
        ("opacities", 1.5, r"expected opacities in \[0, 1\], got opacities 1.5 of splat 2"),
        ("rotations", 0.0, r"expected quaternions that are not zero, got rotations \[0.0, 0.0, 0.0, 0.0\] of splat 2"),
    ],
)
def test_splats_that_cannot_be_right_are_not_written(tmp_path: Path, field: str, value: float, text: str) -> None:
    splats = made(4, mask=torch.tensor([False, True, True, True]))
    getattr(splats, field)[2] = value
    with pytest.raises(ValueError, match=text):
        write_splats(splats, tmp_path / "a.ply")
    splats = made(4)
    splats.harmonics = torch.zeros(4, 5, 3)
    with pytest.raises(ValueError, match="expected 3, 8 or 15 coefficients"):
        write_splats(splats, tmp_path / "a.ply")
    with pytest.raises(ValueError, match="expected a suffix .compressed.ply, .ply, .splat, got '.obj'"):
        write_splats(made(4), tmp_path / "a.obj")
    assert not list(tmp_path.iterdir())


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    for suffix in (".ply", ".splat", ".compressed.ply"):
        with pytest.raises(FileNotFoundError, match="expected a folder to write to, found none; make it first"):
            write_splats(made(3), tmp_path / "none" / ("a" + suffix))


def test_no_splats(tmp_path: Path) -> None:
    none = made(3, degree=2, mask=torch.zeros(3, dtype=torch.bool))
    for suffix in (".ply", ".compressed.ply"):
        assert write_splats(none, tmp_path / ("a" + suffix)).shape == (0,)
        assert read_splats(tmp_path / ("a" + suffix)).harmonics.shape == (0, 8, 3)
    with pytest.raises(ValueError, match="expected at least one splat"):
        write_splats(none, tmp_path / "a.splat", drop_harmonics=True)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_splats(made(5), tmp_path / "a.ply")
    before = (tmp_path / "a.ply").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_splats(made(6), tmp_path / "a.ply")
    assert (tmp_path / "a.ply").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# Files that cannot be right


def changed(row: int, column: str, value: float) -> bytes:
    rows = [list(ROW) for _ in range(4)]
    rows[row][NAMES.index(column)] = value
    return text_ply(NAMES, rows, style="binary_little_endian")


GOOD = text_ply(NAMES, [ROW] * 4, style="binary_little_endian")
BAD = {
    "empty.ply": (b"", "the whole file, field header: expected a PLY file, got 0 bytes"),
    "noply.ply": (b"solid cube\n", "expected a PLY file, which begins with a line `ply`, got b'solid cube"),
    "header.ply": (GOOD[:80], "field end_header: expected a header that ends with a line `end_header`, got none in the first 80 bytes"),
    "short.ply": (GOOD[:-1], "element vertex, field count: expected 4 records of 56 bytes, as the header says, got 223 bytes, so the file ends early"),
    "long.ply": (GOOD + b"\0", "field length: expected 224 bytes after the header, as it says, got 225"),
    "missing.ply": (GOOD.replace(b" scale_1\n", b" scale_7\n"), "the header, field scale_1: expected a property scale_1, got properties x, y"),
    "minus.ply": (GOOD.replace(b"vertex 4", b"vertex -4"), "field line 4: .*got 'element vertex -4'"),
    "huge.ply": (GOOD.replace(b"vertex 4", b"vertex 999999999999"), "expected 999999999999 records of 56 bytes"),
    "absurd.ply": (GOOD.replace(b"vertex 4", b"vertex " + b"9" * 5000), "field line 4: expected a format, an element with a count"),
    "type.ply": (GOOD.replace(b"float x", b"half x"), "got 'property half x'"),
    "half.ply": (GOOD.replace(b"float x", b""), "field line 5: .*got 'property '"),
    "twice.ply": (GOOD.replace(b"float y", b"float x"), "field line 6: .*a new name, got 'property float x'"),
    "format.ply": (GOOD.replace(b"binary_little_endian", b"binary_middle_endian"), "got 'format binary_middle_endian 1.0'"),
    "noformat.ply": (GOOD.replace(b"format binary_little_endian 1.0\n", b""), "field format: expected one of ascii"),
    "novertex.ply": (GOOD.replace(b"element vertex", b"element vertices"), "field vertex: expected an element vertex of single numbers, got elements vertices"),
    "list.ply": (GOOD.replace(b"float x\n", b"float x\nproperty list uchar int l\n"), "expected an element vertex of single numbers, got elements none"),
    "bare.ply": (b"ply\nformat ascii 1.0\nelement vertex 4\nend_header\n", "field vertex: expected properties of every element"),
    "nan.ply": (changed(2, "z", math.nan), "record 2, field z: expected a finite number, got nan"),
    "inf.ply": (changed(1, "opacity", math.inf), "record 1, field opacity: expected a finite number, got inf"),
    "zero.ply": (text_ply(NAMES, [ROW, ROW[:10] + [0.0] * 4]), "record 1, field rotation: expected a quaternion that is not zero"),
    "big.ply": (changed(3, "scale_1", 90.0), "record 3, field scale_1: expected the logarithm of a scale below 3e38 m, got 90.0"),
    "double.ply": (text_ply(NAMES, [[1e300, *ROW[1:]]], kind="double", style="binary_big_endian"), "record 0, field x: expected a finite number, got inf"),
    "rest.ply": (text_ply([*NAMES, "f_rest_0"], [[*ROW, 0.0]]), "field f_rest: expected 0, 9, 24 or 45 properties .*, got 1"),
    "gap.ply": (text_ply([*NAMES, *(f"f_rest_{i}" for i in range(1, 10))], [ROW + [0.0] * 9]), "field f_rest_0: expected a property f_rest_0"),
    "word.ply": (text_ply(NAMES, [ROW]).replace(b"0.25", b"x", 1).replace(b"2.0", b"two"), "field values: expected 14 numbers"),
    "few.ply": (text_ply(NAMES, [ROW[:-1]]), "field count: expected 14 numbers, as the header says, got 13"),
    "cut.ply": (text_ply(NAMES, [ROW])[:-1], "field last line: expected an end of line after the last number"),
    "fraction.ply": (text_ply(NAMES, [ROW], kind="uchar"), "record 0, field f_dc_2: expected a whole number of 8 bits, got -1.0"),
    "empty.splat": (b"", "expected a multiple of 32 bytes, and not 0, got 0"),
    "odd.splat": (bytes(33), "expected a multiple of 32 bytes, and not 0, got 33"),
    "zero.splat": (bytes(28) + b"\x80" * 4, "record 0, field rotation: expected a quaternion, got zero"),
    "nan.splat": (struct.pack("<f", math.nan) + bytes(28), "record 0, field position x: expected a finite number, got nan"),
    "minus.splat": (bytes(12) + struct.pack("<f", -1) + bytes(16), "record 0, field scale: expected no number below 0"),
    "really.splat": (GOOD, "expected records of 32 bytes without a header, got a PLY file; give it the suffix .ply"),
    "a.obj": (b"v 0 0 0\n", "field suffix: expected one of .compressed.ply, .ply, .splat, got '.obj'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_sentence_for_every_bad_file(tmp_path: Path, name: str) -> None:
    content, text = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=text) as caught:
        read_splats(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message and message.endswith(".") and caught.value.file == str(tmp_path / name)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.ply").mkdir()
    for name, kind in (("none.ply", "FileNotFoundError"), ("none.splat", "FileNotFoundError"), ("folder.ply", "IsADirectoryError")):
        with pytest.raises(BadData, match=f"field path: expected a file that can be read, got {kind}"):
            read_splats(tmp_path / name)


def test_bad_compressed_files(tmp_path: Path) -> None:
    write_splats(made(300, degree=1), tmp_path / "a.compressed.ply")
    header, extremes, words, codes = compressed_parts(tmp_path / "a.compressed.ply")
    wrong = extremes.copy()
    wrong[1, 2] = math.nan
    huge = extremes.copy()
    huge[0, 9:12] = 200
    body = extremes.tobytes() + words.tobytes() + codes
    cases = {
        "record 1, field min_z: expected a finite number, got nan": header + wrong.tobytes() + words.tobytes() + codes,
        "field scale_.: expected the logarithm of a scale below 3e38 m": header + huge.tobytes() + words.tobytes() + codes,
        "element chunk, field count: expected 2, one for every 256 of 300 splats, got 1": header.replace(b"chunk 2", b"chunk 1") + body[72:],
        "element sh, field count: expected 300 as of element vertex, got 299": header.replace(b"sh 300", b"sh 299") + body[:-9],
        "field packed_scale: expected a property packed_scale": header.replace(b"packed_scale", b"packed_scull") + body,
        "field packed_position: expected a property of type uint, got float32": header.replace(b"property uint", b"property float") + body,
        "field f_rest_0: expected a property of type uchar, got int8": header.replace(b"property uchar", b"property char") + body,
        "element sh, field count: expected 300 records of 9 bytes": header + body[:-1],
        "field max_scale_y: expected a property": header.replace(b"max_scale_y", b"max_scale_q") + body,
        "field vertex: expected an element vertex": header.replace(b"element vertex", b"element vertigo") + body,
    }
    for text, content in cases.items():
        (tmp_path / "b.ply").write_bytes(content)
        with pytest.raises(BadData, match=text):
            read_splats(tmp_path / "b.ply")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of every kind."""
    splats, folder = made(2, degree=1), tmp_path_factory.mktemp("valid")
    found = {"text.ply": text_ply(NAMES, [ROW, [value + 1 / 3 for value in ROW]]), "big.ply": text_ply(NAMES, [ROW] * 3, style="binary_big_endian")}
    for name in ("a.ply", "a.splat", "a.compressed.ply"):
        write_splats(splats, folder / name, drop_harmonics=name == "a.splat")
        found[name] = (folder / name).read_bytes()
    return found


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, valid: dict[str, bytes]) -> None:
    """Only records without a header can be fewer without a sign of it."""
    for name, content in valid.items():
        file = tmp_path / ("cut-" + name)
        file.write_bytes(content)
        whole = read_splats(file)
        for length in range(len(content)):
            file.write_bytes(content[:length])
            if name == "a.splat" and length and length % 32 == 0:
                assert torch.equal(read_splats(file).means, whole.means[: length // 32])
                continue
            with pytest.raises(BadData):
                read_splats(file)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_splats_or_a_sentence(tmp_path: Path, valid: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(valid)))
    content = bytearray(valid[name])
    header = content.find(b"end_header\n") if name != "a.splat" else len(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, (header if data.draw(st.booleans()) else len(content)) - 1))
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"\n", b"0", b"9", b"-", b" ", b"nan", b"\xff\xff\x80\x7f"])))
        content[place : place + data.draw(st.integers(0, 3))] = piece
    (tmp_path / ("b" + name)).write_bytes(content)
    try:
        splats = read_splats(tmp_path / ("b" + name))
    except BadData as error:
        assert "\n" not in str(error)
    else:
        assert all(bool(getattr(splats, field).isfinite().all()) for field in FIELDS if getattr(splats, field) is not None)
        assert bool((splats.rotations.norm(dim=-1) > 0).all())
