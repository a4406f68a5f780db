"""The CUDA branch of the splat rasterizer, run without a GPU: its blocks are emulated (`cuda_emulation.hpp`), its sorts and sums are those of numpy.

What this cannot show: that the compiler for CUDA keeps the meaning, how launches, streams and memory behave, and how fast it is.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import warp as wp
from numpy.typing import NDArray

from structwm.kernels import splat_raster
from structwm.kernels.splat_compositing import _BACKWARD, _FORWARD, CHANNELS, GEOMETRY
from structwm.kernels.splat_raster import Bins, bin_splats, composite_tiles, composite_tiles_backward

SCHEDULES = (-2, -1, 0)  # first to last, last to first, shuffled
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ on Linux to emulate CUDA blocks; install it with apt-get install g++"
)


class Scene(NamedTuple):
    """Projected splats of V views, and weights of the pixels for a loss."""

    centres: NDArray[np.float32]  # (V * N, 2)
    conics: NDArray[np.float32]  # (V * N, 3)
    depths: NDArray[np.float32]  # (V * N,)
    opacities: NDArray[np.float32]  # (V * N,)
    channels: NDArray[np.float32]  # (V * N, C)
    views: int
    width: int
    height: int

    def arrays(self) -> list[wp.array]:
        return [wp.array(value, dtype=float, device="cpu") for value in self[:4]]

    def weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        generator, pixels = np.random.default_rng(3), self.views * self.height * self.width
        return generator.normal(size=(pixels, self.channels.shape[1])).astype(np.float32).ravel(), generator.normal(size=pixels).astype(np.float32)


def scene(
    count: int, channels: int, *, views: int = 1, width: int = 40, height: int = 23, opacity: tuple[float, float] = (0.1, 1.0), size: float = 4.0,
    within: tuple[float, float] = (-0.2, 1.2), seed: int = 0,
) -> Scene:  # fmt: skip
    """Splats of about `size` px with centres in a part of the image (a share of its sides), one in eight not drawn, and equal depths among them."""
    generator, pairs = np.random.default_rng(seed), views * count
    centres = generator.uniform(*within, size=(pairs, 2)) * (width, height)
    wide, slim, angle = size * np.exp(generator.normal(size=pairs) / 2), size * np.exp(generator.normal(size=pairs) / 2), generator.uniform(0, np.pi, pairs)
    c, s = np.cos(angle), np.sin(angle)
    conics = np.stack((c * c / wide**2 + s * s / slim**2, c * s * (wide**-2 - slim**-2), s * s / wide**2 + c * c / slim**2), 1)
    depths = np.where(generator.uniform(size=pairs) < 0.125, 0.0, generator.integers(1, max(count // 2, 2), pairs) / 7)
    drawn = (centres, conics, depths, generator.uniform(*opacity, size=pairs), generator.normal(size=(pairs, channels)))
    return Scene(*(value.astype(np.float32) for value in drawn), views, width, height)


class Drawn(NamedTuple):
    image: NDArray[np.float32]  # (V * height * width, C)
    through: NDArray[np.float32]
    lasts: NDArray[np.int32]


def draw(given: Scene, bins: Bins) -> Drawn:
    """On CPU."""
    pixels, channels = given.views * given.height * given.width, given.channels.shape[1]
    image, through, lasts = (wp.empty(n, dtype=kind, device="cpu") for n, kind in ((pixels * channels, float), (pixels, float), (pixels, wp.int32)))
    table = wp.array(given.channels, dtype=float, device="cpu")
    composite_tiles(bins, table, image, through, lasts, views=given.views, width=given.width, height=given.height)
    return Drawn(image.numpy().reshape(pixels, channels), through.numpy(), lasts.numpy())


def gradients(given: Scene, bins: Bins, drawn: Drawn) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of touches and their sums by pair, on CPU."""
    table, through, lasts, by_image, by_through = (wp.array(v, device="cpu") for v in (given.channels, drawn.through, drawn.lasts, *given.weights()))
    sums = wp.zeros((len(given.depths), GEOMETRY + table.shape[1]), dtype=float, device="cpu")
    sizes = {"views": given.views, "width": given.width, "height": given.height}
    rows = composite_tiles_backward(bins, table, through, lasts, by_image, by_through, sums=sums, **sizes, direct=False)
    at_once = wp.zeros_like(sums)
    composite_tiles_backward(bins, table, through, lasts, by_image, by_through, sums=at_once, **sizes, direct=True)
    assert np.array_equal(sums.numpy(), at_once.numpy())
    return rows.numpy(), sums.numpy()


class Arguments(ctypes.Structure):
    """As in `cuda_emulation.hpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("lists", "touches", "ends", "lasts", "packed", "channels", "image", "through", "grad_image", "grad_through", "gradients")
        ),
        *((name, ctypes.c_int) for name in ("tiles", "columns", "rows", "width", "height", "direct", "blocks")),
    ]


def compiled(snippets: dict[str, str], folder: Path) -> ctypes.CDLL:
    """A library with one launch for each snippet."""
    text = f'#include "{Path(__file__).with_name("cuda_emulation.hpp")}"\n'
    for name, snippet in snippets.items():
        text += f'static void tile_{name}(TILE)\n{{\nCOMMON\n#line 1 "{name}"\n{snippet}\n}}\nLAUNCH({name})\n'
    source, library = folder / "emulated.cpp", folder / "emulated.so"
    source.write_text(text)
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    snippets = {f"{name}_{c}": text % {"channels": c} for c in CHANNELS for name, text in (("forward", _FORWARD), ("backward", _BACKWARD))}
    return compiled(snippets, tmp_path_factory.mktemp("emulated"))


def emulate(launch: Any, given: Scene, bins: Bins, *, schedule: int, blocks: int | None = None, direct: bool = False, **arrays: NDArray[Any]) -> None:
    """Run a launch of the library; fails if its threads do not meet."""
    columns, rows = -(-given.width // 16), -(-given.height // 16)
    tiles = given.views * columns * rows
    arrays |= {
        "lists": bins.lists.numpy(),
        "touches": bins.touches.numpy(),
        "ends": bins.ends.numpy(),
        "packed": bins.packed.numpy(),
        "channels": given.channels,
    }
    pointers = {name: value.ctypes.data for name, value in arrays.items()}
    launch.restype = ctypes.c_char_p
    sizes = {"tiles": tiles, "columns": columns, "rows": rows, "width": given.width, "height": given.height}
    error = launch(ctypes.byref(Arguments(**pointers, **sizes, direct=direct, blocks=blocks or max(tiles, 1))), schedule)
    if error:
        raise RuntimeError(error.decode())


def emulated_draw(launch: Any, given: Scene, bins: Bins, **how: Any) -> Drawn:
    pixels, channels = given.views * given.height * given.width, given.channels.shape[1]
    drawn = Drawn(np.full((pixels, channels), np.nan, np.float32), np.full(pixels, np.nan, np.float32), np.full(pixels, -7, np.int32))
    emulate(launch, given, bins, image=drawn.image, through=drawn.through, lasts=drawn.lasts, **how)
    return drawn


def emulated_gradients(launch: Any, given: Scene, bins: Bins, drawn: Drawn, *, direct: bool = False, **how: Any) -> NDArray[np.float32]:
    """Rows of touches, or sums by pair if `direct`."""
    width = GEOMETRY + given.channels.shape[1]
    found = np.zeros((len(given.depths), width), np.float32) if direct else np.full((len(bins.lists), width), np.nan, np.float32)
    by_image, by_through = given.weights()
    arrays = {"through": drawn.through, "lasts": drawn.lasts, "grad_image": by_image, "grad_through": by_through, "gradients": found}
    emulate(launch, given, bins, direct=direct, **arrays, **how)
    return found


SCENES: dict[str, Callable[[int], Scene]] = {
    "tiles cut by the border, two views": lambda channels: scene(60, channels, views=2),
    "lists of several batches": lambda channels: scene(500 if channels < 36 else 400, channels, width=24, height=16, opacity=(0.006, 0.05), size=3.0),
    "pixels that finish early": lambda channels: scene(400, channels, width=18, height=18, opacity=(0.9, 1.0), size=12.0),
    "most tiles empty": lambda channels: scene(30, channels, width=70, height=50, within=(0.55, 0.7), size=2.0),
    "nothing drawn": lambda channels: scene(20, channels, opacity=(0.001, 0.003)),
}


@needs_compiler
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", SCENES)
def test_emulated_blocks_compute_what_the_cpu_computes(library: ctypes.CDLL, name: str, channels: int) -> None:
    given = SCENES[name](channels)
    bins = bin_splats(*given.arrays(), views=given.views, width=given.width, height=given.height)
    longest = np.diff(bins.ends.numpy(), prepend=0).max()
    assert {"lists of several batches": longest > 256, "nothing drawn": longest == 0}.get(name, True)
    mine = draw(given, bins)
    rows, sums = gradients(given, bins, mine)
    assert np.isfinite(mine.image).all() and (np.abs(rows).max() > 0) == (longest > 0) if len(rows) else longest == 0
    forward, backward = (getattr(library, f"{direction}_{channels}") for direction in ("forward", "backward"))
    first: tuple[NDArray[Any], ...] = ()
    for schedule in SCHEDULES if channels == CHANNELS[0] else SCHEDULES[:1]:
        ours = emulated_draw(forward, given, bins, schedule=schedule)
        by_touch, by_pair = (emulated_gradients(backward, given, bins, mine, schedule=schedule, direct=direct) for direct in (False, True))
        first = first or (*ours, by_touch, by_pair)
        assert all(np.array_equal(a, b) for a, b in zip(first, (*ours, by_touch, by_pair), strict=True))  # no races
    same = ours.lasts == mine.lasts
    assert (~same).mean() <= 1e-3  # exponentials differ in their last digit, so that a splat at a threshold can be in or out
    np.testing.assert_allclose(ours.image[same], mine.image[same], atol=2e-5)
    np.testing.assert_allclose(ours.through[same], mine.through[same], atol=1e-6, rtol=1e-4)
    for found, true in ((by_touch, rows), (by_pair, sums)):
        assert found.shape == true.shape
        off = np.abs(found - true).max(initial=0.0, axis=0) / np.abs(true).max(initial=1e-6, axis=0)
        assert off.max() <= 1e-4


BARRIER = r"__syncthreads\(\);|__syncthreads_count\(done\) == 256"


def damaged(name: str, text: str) -> dict[str, str]:
    """The snippet as it is, without each of its barriers, and with threads outside the image leaving at once."""
    whole = text % {"channels": 4}
    found = {f"{name}_whole": whole, f"{name}_leaving": whole.replace("y < height;\n", "y < height; if (!inside) return;\n", 1)}
    for k, barrier in enumerate(re.finditer(BARRIER, whole)):
        found[f"{name}_without_{k}"] = whole[: barrier.start()] + ("" if barrier[0].endswith(";") else "false") + whole[barrier.end() :]
    return found


@needs_compiler
def test_every_barrier_is_needed_and_missed(tmp_path: Path) -> None:
    """Otherwise the test above could not fail. Two blocks take several tiles each, so that shared memory is used again by a block that has not met since."""
    forward, backward = damaged("forward", _FORWARD), damaged("backward", _BACKWARD)
    assert (len(forward), len(backward)) == (4, 7)
    damage = compiled(forward | backward, tmp_path)
    given = scene(20, 4, width=70, height=50, within=(0.7, 1.0), size=2.0)
    bins = bin_splats(*given.arrays(), views=given.views, width=given.width, height=given.height)
    drawn, missed = draw(given, bins), set()
    for kernel in (*forward, *backward):
        results = set()
        for schedule in SCHEDULES:
            try:
                if kernel in forward:
                    result = emulated_draw(getattr(damage, kernel), given, bins, schedule=schedule, blocks=2)
                else:
                    result = (emulated_gradients(getattr(damage, kernel), given, bins, drawn, schedule=schedule, blocks=2),)
                results.add(b"".join(value.tobytes() for value in result))
            except RuntimeError:
                missed.add(kernel)
        if len(results) > 1:
            missed.add(kernel)
    assert missed == {*forward, *backward} - {"forward_whole", "backward_whole"}


def test_shared_memory_fits_without_asking_for_more() -> None:
    """48 KB of static shared memory a block, of which Warp takes 4 bytes a thread."""
    for c in CHANNELS:
        assert 4 * (256 * (GEOMETRY + c) + 256) <= 48 * 1024
        assert 4 * (16 * (GEOMETRY + c) + 8 * 16 * (GEOMETRY + c) + 1 + 256) <= 48 * 1024


def sort_pairs(keys: wp.array, values: wp.array, count: int, begin: int = 0, end: int = 32) -> None:
    """What `wp.utils.radix_sort_pairs` does on CUDA (cub::DeviceRadixSort): stable, by some bits of the key with its sign bit turned, scratch behind."""
    for array in (keys, values):
        assert array.shape[0] >= 2 * count
    key, value = keys.numpy(), values.numpy()
    digits = (key[:count].view(np.uint32) ^ np.uint32(1 << 31)).astype(np.uint64) >> np.uint64(begin) & np.uint64((1 << (end - begin)) - 1)
    order = np.argsort(digits, kind="stable")
    key[:count], value[:count] = key[:count][order], value[:count][order]
    key[count:], value[count:] = -1, -1


def scan(counts: wp.array, starts: wp.array, inclusive: bool) -> None:
    """`wp.utils.array_scan`."""
    assert not inclusive
    starts.numpy()[:] = np.cumsum(counts.numpy()) - counts.numpy()


def empty(shape: Any, dtype: Any, device: Any) -> wp.array:
    """Memory with numbers in it that nobody wrote."""
    return wp.full(shape, 3, dtype=dtype, device="cpu")


def bin_as_on_cuda(given: Scene, monkeypatch: pytest.MonkeyPatch, capacity: int | None) -> Bins:
    """`bin_splats` through its branch for CUDA, with its kernels on the CPU."""

    def launch(kernel: Any, dim: int, inputs: list[Any], device: Any) -> None:
        wp.launch(kernel, dim=dim, inputs=inputs, device="cpu")

    def launch_parts(kernel: Any, count: int, arguments: list[Any], *, device: Any, share: int) -> None:
        if count:
            launch(kernel, count, [0, *arguments], device)

    utils = SimpleNamespace(radix_sort_pairs=sort_pairs, array_scan=scan)
    with monkeypatch.context() as patch:
        patch.setattr(splat_raster, "wp", SimpleNamespace(empty=empty, launch=launch, copy=wp.copy, int32=wp.int32, to_torch=wp.to_torch, utils=utils))
        patch.setattr(splat_raster, "launch", launch_parts)
        arrays = given.arrays()
        arrays[0].device = SimpleNamespace(is_cpu=False)
        return bin_splats(*arrays, views=given.views, width=given.width, height=given.height, capacity=capacity)


@pytest.mark.parametrize("share", [None, 2.0, 1.0, 0.6])  # of the room that is needed, None for a measured one
@pytest.mark.parametrize(
    ("count", "views", "width", "height"),
    [(500, 1, 64, 32), (200, 3, 70, 41), (300, 2, 16, 16), (1, 1, 30, 30), (0, 1, 30, 30)],  # 8, 45, 2, 4 and 4 tiles in all
)
def test_binning_as_on_cuda_gives_the_lists_of_the_cpu(
    count: int, views: int, width: int, height: int, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = scene(count, 4, views=views, width=width, height=height, size=6.0)
    needed = bin_splats(*given.arrays(), views=views, width=width, height=height).needed
    capacity = None if share is None else int(share * needed) + 1
    cpu = bin_splats(*given.arrays(), views=views, width=width, height=height, capacity=capacity)
    cuda = bin_as_on_cuda(given, monkeypatch, capacity)
    drawn, kept = int((np.diff(cpu.starts.numpy()) > 0).sum()), min(needed, len(cpu.lists))
    assert cuda.needed == needed and (needed > 0) == (count > 0)
    np.testing.assert_array_equal(cuda.order.numpy()[:drawn], cpu.order.numpy()[:drawn])
    np.testing.assert_array_equal(np.sort(cuda.order.numpy()), np.arange(count * views))
    np.testing.assert_array_equal(cuda.starts.numpy(), cpu.starts.numpy())
    np.testing.assert_array_equal(cuda.ends.numpy(), cpu.ends.numpy())
    np.testing.assert_array_equal(cuda.lists.numpy()[:kept], cpu.lists.numpy()[:kept])
    np.testing.assert_array_equal(cuda.touches.numpy()[:kept], cpu.touches.numpy()[:kept])
    np.testing.assert_array_equal(cuda.packed.numpy(), cpu.packed.numpy())
