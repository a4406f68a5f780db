"""How fast, how large and how exact the rasterizer is, beside its peers."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, median_claim
from benchmarks.raster_scenes import View, cloud, garden
from structwm.geometry.camera import Camera
from structwm.render import per_pixel_backend, render
from structwm.state import Splats

LEAVES = ("means", "rotations", "scales", "opacities", "colors")
REPEATS = 5


class Cost(NamedTuple):
    """One picture and its gradients."""

    forward: float  # [s]
    backward: float  # [s]
    memory: float  # [MB], greatest addition to the process, where it was watched


def draw(view: View, backend: Any, dtype: torch.dtype = torch.float32, *, watched: bool = False) -> tuple[list[Tensor], list[Tensor], Cost]:
    """Image, depth and alpha; gradients of a random weighing of them by means, rotations, scales, opacities, colours and the pose; and what it cost."""
    splats = view.splats.to(dtype) if dtype != torch.float32 else view.splats.clone()
    leaves = [getattr(splats, name).requires_grad_() for name in LEAVES]
    pose = view.camera.world_from_camera.to(dtype).clone().requires_grad_()
    camera = Camera(view.camera.intrinsics.to(dtype), pose, view.camera.width, view.camera.height)
    generator = torch.Generator().manual_seed(1)
    shape = (camera.height, camera.width)
    weights = [torch.randn(*shape, *rest, generator=generator, dtype=torch.float64).to(splats.means) for rest in ((3,), (), ())]
    with Peak() if watched else nullcontext() as peak:
        start = _now(splats)
        seen = render(splats, camera, backend=backend)
        middle = _now(splats)
        gradients = torch.autograd.grad([seen.image, seen.depth, seen.alpha], [*leaves, pose], weights)
        end = _now(splats)
    return (
        [seen.image.detach(), seen.depth.detach(), seen.alpha.detach()],
        list(gradients),
        Cost(middle - start, end - middle, peak.megabytes if peak is not None else 0.0),
    )


def _now(splats: Splats) -> float:
    if splats.means.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


class Peak:
    """The greatest growth of this process's resident memory while it is entered, looked at every millisecond; on CUDA that of torch's allocations."""

    megabytes = 0.0

    def __enter__(self) -> Peak:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # so that memory that earlier work freed counts when it is used again
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        self._stop, self._start, self._most = threading.Event(), self._resident(), 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        used = torch.cuda.max_memory_allocated() - self._before if torch.cuda.is_available() else max(self._most, self._resident()) - self._start
        self.megabytes = used / 1e6

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._most = max(self._most, self._resident())

    @staticmethod
    def _resident() -> int:
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def compare(view: View, backends: dict[str, Any], repeats: int = REPEATS, patience: float = math.inf) -> dict[str, list[Cost]]:
    """The costs of several backends, interleaved, after one picture each to warm up and to see the memory, which is not looked at while time is taken.

    A backend whose first picture takes more than `patience` [s] draws one more only.
    """
    first = {name: draw(view, backend, watched=True)[2] for name, backend in backends.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in backends}
    for turn in range(repeats):
        for name, backend in backends.items():
            if turn == 0 or first[name].forward + first[name].backward <= patience:
                costs[name].append(draw(view, backend)[2]._replace(memory=first[name].memory))
    return costs


def total(costs: list[Cost]) -> list[float]:
    """Forward and backward together [s]."""
    return [cost.forward + cost.backward for cost in costs]


def speed_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Times of the rasterizer, the torch reference and the per-pixel kernel, on one thread each."""
    peers: dict[str, Any] = {"structwm": "warp", "torch reference": "reference", "per pixel": per_pixel_backend.draw}
    fast = {name: peers[name] for name in ("structwm", "per pixel")}
    views: list[tuple[View, dict[str, Any]]] = [(cloud(10_000, 256), peers), (cloud(50_000, 512), peers), (garden(), fast if quick else peers)]
    table = Table("scene", "by", "forward [ms]", "backward [ms]", "both [ms]", "memory [MB]", "slower", title="one thread, medians")
    ratios: dict[tuple[int, str], list[float]] = {}
    times: dict[tuple[int, str], list[float]] = {}
    before = torch.get_num_threads()
    for place, (view, backends) in enumerate(views):
        torch.set_num_threads(1)
        costs = compare(view, backends, patience=1.5 if quick else math.inf)
        torch.set_num_threads(max(before, 2))
        costs["structwm, two threads"] = compare(view, {"ours": "warp"})["ours"]
        torch.set_num_threads(before)
        ours = total(costs["structwm"])
        for name, cost in costs.items():
            ratios[place, name] = [theirs / mine for theirs, mine in zip(total(cost), ours, strict=False)]
            times[place, name] = [1e3 * value for value in total(cost)]
            row = (*(1e3 * float(np.median([getattr(c, part) for c in cost])) for part in ("forward", "backward")), float(np.median(times[place, name])))
            table.add_row(view.name, name, *(f"{value:.1f}" for value in row), f"{cost[0].memory:.0f}", f"{np.median(ratios[place, name]):.2f}")
        table.add_section()
    console.print(table)
    return {
        "cpu_speedup_10k": median_claim(ratios[0, "torch reference"]),
        "cpu_speedup_50k": median_claim(ratios[1, "torch reference"]),
        "torch_reference_ms_10k": median_claim(times[0, "torch reference"]),
        "ms_10k": median_claim(times[0, "structwm"]),
        "per_pixel_speedup": median_claim(min((ratios[place, "per pixel"] for place in range(len(views))), key=np.median)),
    }


def accuracy_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Differences from the reference in float64: of colours and alpha as they are, of depths relative to the depth; pixels at a threshold counted apart."""
    views = [cloud(10_000, 256, seed=seed) for seed in range(1 if quick else 4)]
    errors, gradients = [], []
    for view in views:
        ours, ours_by, _ = draw(view, "warp")
        oracle, oracle_by, _ = draw(view, "reference", torch.float64)
        color, depth, alpha = (abs(mine - true) for mine, true in zip(ours, oracle, strict=True))
        errors.append(torch.maximum(torch.maximum(color.amax(-1), alpha), depth / oracle[1].clamp_min(1e-6)).flatten())
        gradients.append(
            [float(((mine - true).abs() / (2.5e-4 * true.abs() + 2e-3 * true.abs().max())).max()) for mine, true in zip(ours_by, oracle_by, strict=True)]
        )
    error = torch.cat(errors)
    at_threshold = error > 2e-5
    worst = [max(row[k] for row in gradients) for k in range(len(gradients[0]))]
    console.print(
        f"against float64, {len(views)} scenes of 10k at 256 x 256: greatest difference {float(error[~at_threshold].max()):.2g} but for "
        f"{int(at_threshold.sum())} of {len(error)} pixels at a threshold (up to {float(error.max()):.2g}); gradients in units of rtol 2.5e-4 + atol 2e-3 "
        "of the largest: " + ", ".join(f"{name} {value:.3f}" for name, value in zip((*LEAVES, "pose"), worst, strict=True))
    )
    return {
        "forward_max_error": claim(float(error[~at_threshold].max()), n=len(error)),
        "threshold_fraction": claim(float(at_threshold.double().mean()), n=len(error)),
        "gradient_max_error": claim(max(worst), n=len(views)),
    }


def gsplat_claims(console: Console) -> dict[str, Any]:
    """On CUDA, gsplat's time over ours, the worst of the scenes."""
    names = ("gsplat_forward_ratio", "gsplat_backward_ratio")
    if not torch.cuda.is_available():
        return {name: claim(None, why="not run on a GPU: this machine has none, and gsplat renders only with CUDA") for name in names}
    worst = [[math.inf], [math.inf]]
    table = Table("scene", "by", "forward [ms]", "backward [ms]", "memory [MB]", title="CUDA, medians")
    for view in (cloud(10_000, 256), cloud(50_000, 512), garden()):
        moved = View(view.name, view.splats.to("cuda"), view.camera.to("cuda"))
        costs = compare(moved, {"structwm": "warp", "gsplat": "gsplat"}, repeats=21)
        for name, cost in costs.items():
            parts = [1e3 * float(np.median([getattr(c, part) for c in cost])) for part in ("forward", "backward")]
            table.add_row(view.name, name, *(f"{value:.3f}" for value in parts), f"{cost[0].memory:.0f}")
        for k, part in enumerate(("forward", "backward")):
            ratios = [getattr(theirs, part) / getattr(ours, part) for theirs, ours in zip(costs["gsplat"], costs["structwm"], strict=True)]
            worst[k] = min(worst[k], ratios, key=np.median)
    console.print(table)
    return {name: median_claim(values) for name, values in zip(names, worst, strict=True)}
