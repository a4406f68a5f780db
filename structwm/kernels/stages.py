"""The same few kernels launched step after step: recorded once, cut in parts that run side by side on the threads of a CPU, a graph on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import warp as wp

from .launching import side_by_side, torch_stream


@dataclass(frozen=True)
class Stage:
    """One launch of a step. Its kernel takes the first index, then `arguments`."""

    kernel: Any
    arguments: Callable[[int], Sequence[Any]]  # of a part, by its number; parts may have arrays of their own to add up in
    once: bool = False  # a kernel of one thread without first index, that every part launches for itself


@dataclass(frozen=True)
class Cut:
    """How a range of `count` worlds of `size` indices each is shared by threads."""

    count: int
    size: int
    threads: int
    together: bool  # threads share worlds, and so wait for each other after each stage

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First index and how many, by part."""
        whole = self.count * self.size
        edges = [(self.count * t // self.threads) * self.size if not self.together else whole * t // self.threads for t in range(self.threads + 1)]
        return [(a, b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def cut(count: int, size: int, work: int, *, share: int, device: torch.device) -> Cut:
    """By worlds where there are as many as threads; within worlds where these are large.

    Args:
        count: worlds.
        size: indices of each.
        work: of a world in a stage, in units of which `share` make a thread worth starting.
        share: as said.
        device: on CUDA all is one part.
    """
    available = torch.get_num_threads() if device.type == "cpu" else 1
    threads = max(1, min(available, count * work // share))
    return Cut(count, size, threads, together=threads > count)


def run(stages: Sequence[Stage], steps: int, cut: Cut, device: torch.device, *, before: Callable[[], None] | None = None, graph: bool | None = None) -> None:
    """Launch all stages for each step.

    Args:
        stages: of a step, in order.
        steps: how often.
        cut: who does what.
        device: where.
        before: called at the start of each step; parts wait for it.
        graph: whether a step is recorded into a graph; by default on CUDA only, because recording on a CPU would take up what other threads launch meanwhile.
    """
    if not steps or not stages:
        return
    on = wp.device_from_torch(device)
    graph = device.type == "cuda" if graph is None else graph
    for stage in stages:
        stage.kernel.module.load(on, 1 if on.is_cpu else None)
    with torch_stream(device):
        commands = [[_command(stage, part, bounds, on) for stage in stages] for part, bounds in enumerate(cut.bounds)]
        if graph and steps > 1 and cut.threads == 1:
            _replay(commands[0], steps, on, before)
        elif cut.together:
            for _ in range(steps):
                if before is not None:
                    before()
                for same in zip(*commands, strict=True):
                    side_by_side([one.launch for one in same])
        elif before is None:
            side_by_side([partial(_walk, own, steps) for own in commands])
        else:
            for _ in range(steps):
                before()
                side_by_side([partial(_walk, own, 1) for own in commands])


def _command(stage: Stage, part: int, bounds: tuple[int, int], device: Any) -> Any:
    if stage.once:
        return wp.launch(stage.kernel, dim=1, inputs=list(stage.arguments(part)), device=device, record_cmd=True)
    first, size = bounds
    return wp.launch(stage.kernel, dim=size, inputs=[first, *stage.arguments(part)], device=device, record_cmd=True)


def _walk(commands: Sequence[Any], steps: int) -> None:
    for _ in range(steps):
        for command in commands:
            command.launch()


def _replay(commands: Sequence[Any], steps: int, device: Any, before: Callable[[], None] | None) -> None:
    """A step as a graph. Recording does not run it."""
    with wp.ScopedCapture(device=device) as capture:
        _walk(commands, 1)
    for _ in range(steps):
        if before is not None:
            before()
        wp.capture_launch(capture.graph)
