"""Working memory of kernels of which each thread has a row of its own, kept from one call of a thread to its next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import warp as wp

_SHELF = threading.local()


def kept(make: Callable[..., Any], program: Any, count: int, scalar: Any, device: Any) -> Any:
    """`make(program, count, scalar, device)`, or what this thread made so last."""
    key = (program, count, scalar, str(device))
    shelf = vars(_SHELF).setdefault(f"{make.__module__}.{make.__name__}", [None, None])
    if shelf[0] != key:
        shelf[:] = [key, make(program, count, scalar, device)]
    return shelf[1]


def filled(struct: Any, sizes: Mapping[str, tuple[int, Any]], count: int, device: Any) -> Any:
    """A struct with arrays (count, width) by name, `sizes` their width and type; on CUDA rows lie side by side in memory."""
    for name, (width, dtype) in sizes.items():
        if device.is_cpu:
            setattr(struct, name, wp.empty((count, width), dtype=dtype, device=device))
        else:
            setattr(struct, name, wp.empty((width, count), dtype=dtype, device=device).transpose((1, 0)))
    return struct
