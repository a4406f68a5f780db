"""Tensors as Warp arrays, and launching a kernel over them: on CUDA in torch's stream, on CPU over many threads of the processor.

Warp runs a CPU launch in the calling thread, and releases the interpreter lock meanwhile. A kernel whose threads write disjoint places, without atomics,
gives the same result when its range is cut in parts that are launched side by side. Such a kernel takes `first` as its first argument (its index is `first +
wp.tid()`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd import forward_ad

SCALARS = {torch.float32: wp.float32, torch.float64: wp.float64}
"""Warp's types of number for which kernels are made."""

READS_BACK: dict[str, Any] = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
"""For `torch.library.custom_op`: the operator reads sizes back from the device, so that `torch.compile` leaves it out of CUDA graphs."""


def scalar_of(tensor: Tensor) -> Any:
    """Warp's type of a tensor's numbers.

    Raises:
        TypeError: if it is not float32 or float64.
    """
    if tensor.dtype not in SCALARS:
        raise TypeError(f"kernels: expected float32 or float64, got {tensor.dtype}; cast the tensors first.")
    return SCALARS[tensor.dtype]


def as_array(tensor: Tensor, *shape: int) -> wp.array:
    """A tensor as a Warp array of `shape`, (-1,) if not given; the same memory where it is contiguous."""
    return wp.from_torch(tensor.detach().contiguous().view(shape or (-1,)))


def as_descriptor(tensor: Tensor) -> Any:
    """A tensor as what a kernel of known types takes for an array of its shape; quicker to make than the array."""
    return wp.from_torch(tensor.detach().contiguous(), return_ctype=True)


def as_vectors(tensor: Tensor) -> wp.array:
    """A tensor (*, n) as a flat array of n-vectors."""
    size = tensor.shape[-1]
    return wp.from_torch(tensor.detach().contiguous().view(-1, size), dtype=wp.types.vector(size, scalar_of(tensor)))


def as_matrices(tensor: Tensor) -> wp.array:
    """A tensor (*, m, n) as a flat array of matrices."""
    shape = tensor.shape[-2:]
    return wp.from_torch(tensor.detach().contiguous().view(-1, *shape), dtype=wp.types.matrix(tuple(shape), scalar_of(tensor)))


def backward_only(name: str, *tensors: Tensor | None) -> None:
    """Refuse what would lose derivatives without a word: the operators have a backward pass and nothing else. Within `torch.compile` it is not seen.

    Raises:
        ValueError: within forward-mode differentiation of one of the tensors, or a transform of `torch.func`.
    """
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is None:
            continue
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        needed = tensor.requires_grad or torch._C._functorch.is_batchedtensor(tensor)
        if (wrapped and needed) or forward_ad.unpack_dual(tensor).tangent is not None:
            raise ValueError(
                f"{name}: expected gradients by torch.autograd.grad or backward(), got forward-mode differentiation or a transform of torch.func, "
                "which these kernels do not have."
            )


def launch_beside(tensor: Tensor, kernel: Any, count: int, arguments: Sequence[Any], *, share: int, interleaved: bool = False) -> None:
    """`launch` on the device of a tensor, and there on torch's current stream."""
    with torch_stream(tensor.device):
        launch(kernel, count, arguments, device=wp.device_from_torch(tensor.device), share=share, interleaved=interleaved)


def launch(kernel: Any, count: int, arguments: Sequence[Any], *, device: Any, share: int, interleaved: bool = False) -> None:
    """Launch `kernel(first, *arguments)` over `count` indices.

    Args:
        kernel: without atomics; `arguments` holds its inputs and outputs after `first`.
        count: how many indices.
        arguments: Warp arrays and numbers.
        device: Warp's device. Recorded into a graph, or on CUDA, it is one launch.
        share: indices that a CPU thread must have to be worth starting.
        interleaved: the kernel's second argument is a stride: index `first + stride * wp.tid()`; balances uneven work. On CUDA the stride is 1.
    """
    if count == 0:
        return
    threads = min(torch.get_num_threads(), count // share) if device.is_cpu and not device.is_capturing else 1
    if threads <= 1:
        wp.launch(kernel, dim=count, inputs=[0, *((1,) if interleaved else ()), *arguments], device=device)
        return
    kernel.module.load(device, 1 if device.is_cpu else None)  # once, before threads ask for it
    if interleaved:
        parts = [(-(-(count - t) // threads), [t, threads, *arguments]) for t in range(threads)]
    else:
        bounds = [count * t // threads for t in range(threads + 1)]
        parts = [(b - a, [a, *arguments]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    side_by_side([partial(wp.launch, kernel, dim=size, inputs=inputs, device=device) for size, inputs in parts])


def torch_stream(device: torch.device) -> AbstractContextManager[Any]:
    """Warp launches on torch's current stream within this context; on CPU it does nothing."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.current_stream(device)
    if (wp.get_stream(wp.device_from_torch(stream.device)).cuda_stream or 0) == stream.cuda_stream:
        return nullcontext()  # a second Warp stream around it would unregister the first when it goes
    free = not torch.cuda.is_current_stream_capturing()
    return wp.ScopedStream(_wrapped(stream), sync_enter=free, sync_exit=free)  # Warp frees memory in its own stream, so that one waits for this work


@cache
def _wrapped(stream: torch.cuda.Stream) -> Any:
    """Kept, because Warp forgets a stream when its object goes."""
    return wp.stream_from_torch(stream)


def side_by_side(jobs: Sequence[Callable[[], Any]]) -> None:
    """Run jobs in threads, the last one in this thread, and wait for all."""
    waiting = [_pool(len(jobs)).submit(job) for job in jobs[:-1]]
    try:
        jobs[-1]()
    finally:
        wait(waiting)
    for job in waiting:
        job.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="structwm-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has no threads of its parent
