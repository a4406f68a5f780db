"""Rollouts of rigid worlds from recorded graphs: for planners and environments that roll the same sizes out again and again."""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import Any

import torch
import warp as wp
from torch import Tensor

from .launching import launch, scalar_of, torch_stream
from .rigid import THREAD_SHARE, RigidProgram, forward, forward_arguments, scratch_of
from .rigid_rollout import rollout_kernel

KEPT = 8  # graphs, each of other sizes


class RecordedRollouts:
    """`forward` of one program, recorded for each set of sizes when it is first met, and replayed with other numbers after.

    The results are those of `forward` bit for bit, and new tensors each time. A replay on CPU runs in one thread: where several threads would share the worlds,
    nothing is recorded. Calls from several threads take turns.
    """

    def __init__(self, program: RigidProgram) -> None:
        self.program = program
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._lock = RLock()

    def __call__(self, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`."""
        count, horizon = actions.shape[:2]
        threads = 1 if q.is_cuda else min(torch.get_num_threads(), count // THREAD_SHARE)
        if not count or not horizon or threads > 1:
            return forward(self.program, q, v, actions, table, row)
        key = (q.dtype, q.device, count, horizon, len(table))
        with self._lock:
            graph = self._graphs.pop(key, None) or _record(self.program, q, v, actions, table, row)
            self._graphs[key] = graph
            while len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
            return graph.replay(q, v, actions, table, row)

    def __reduce__(self) -> tuple[type[RecordedRollouts], tuple[RigidProgram]]:
        """Copies and pickles start without graphs."""
        return RecordedRollouts, (self.program,)


class _Graph:
    """A recorded launch and all memory that it reads and writes."""

    def __init__(self, graph: Any, inputs: tuple[Tensor, ...], states: tuple[Tensor, Tensor], kept: tuple[Any, ...]) -> None:
        self.graph, self.inputs, self.states, self.kept = graph, inputs, states, kept

    def replay(self, q: Tensor, v: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch_stream(q.device):
            for mine, given in zip((self.states[0][:, 0], self.states[1][:, 0], *self.inputs), (q, v, *inputs), strict=True):
                mine.copy_(given)
            wp.capture_launch(self.graph)
            return self.states[0].clone(), self.states[1].clone()


@torch.inference_mode(False)  # the buffers are written by later rollouts too
def _record(program: RigidProgram, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> _Graph:
    count, horizon = actions.shape[:2]
    scalar, device = scalar_of(q), wp.device_from_torch(q.device)
    states = (q.new_zeros(count, horizon + 1, q.shape[1]), v.new_zeros(count, horizon + 1, v.shape[1]))
    inputs = (actions.detach().clone(), table.detach().clone(), row.clone())
    kernel, scratch = rollout_kernel(scalar), scratch_of(program, count, scalar, device)
    arguments = forward_arguments(program, *states, *inputs, scratch)
    kernel.module.load(device)  # which cannot be recorded
    stream = wp.stream_from_torch(torch.cuda.Stream(q.device)) if device.is_cuda else None  # the default one cannot be recorded
    with wp.ScopedStream(stream), wp.ScopedCapture(device=device) as capture:
        launch(kernel, count, arguments, device=device, share=THREAD_SHARE)
    return _Graph(capture.graph, inputs, states, (arguments, scratch))
