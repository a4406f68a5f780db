"""Memory between plans."""

from __future__ import annotations

from functools import cache

import torch

LIMIT = 2**25  # bytes of a block up to which glibc learns from its being freed (DEFAULT_MMAP_THRESHOLD_MAX on 64 bits)


@cache
def keep_freed_memory() -> None:
    """Let the allocator keep what a plan frees for the next one, once a process.

    A plan needs some megabytes and frees them. By default glibc gives them back to the system, and the next plan pays for each page again: up to half of its
    time was spent so. A block of nearly 32 MiB that is freed raises what glibc keeps to twice that size (`mallopt(3)`, on the dynamic threshold); it is never
    touched, so nothing is paid for it. Elsewhere this does nothing.
    """
    torch.empty(LIMIT - 2**16, dtype=torch.uint8)
