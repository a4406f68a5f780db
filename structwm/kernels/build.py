"""Compiles every Warp kernel of the library once, so that nothing compiles in the middle of a test or a job.

`python -m structwm.kernels.build` compiles for this machine's devices into Warp's cache (`WARP_CACHE_PATH`). `--cuda DIR` compiles ahead of time for the CUDA
architectures sm_80 and sm_90 as PTX into a folder; that needs no GPU and shows that the CUDA branch builds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

CUDA_ARCHITECTURES = (80, 90)


def kernel_modules() -> list[ModuleType]:
    """The modules of `structwm.kernels` that hold kernels: all but this one."""
    import structwm.kernels as package

    names = sorted(module.name for module in iter_modules(package.__path__) if module.name != "build")
    return [import_module(f"{package.__name__}.{name}") for name in names]


def warp_modules(*, ahead: bool = False) -> list[Any]:
    """Warp's modules: those of the Python modules, and of the kernels that a Python module makes in a factory and lists in its function `made_kernels`.

    With `ahead`, those that are compiled before their first use for CUDA: a Python module lists them in `kernels_ahead` where they are others than for a CPU.
    """
    import warp as wp

    modules = []
    for module in kernel_modules():
        named = wp.get_module(module.__name__)
        if named.kernels:
            modules.append(named)
        listed = getattr(module, "made_kernels", list)
        modules.extend(kernel.module for kernel in (getattr(module, "kernels_ahead", listed) if ahead else listed)())
    return list(dict.fromkeys(modules))


def build() -> float:
    """Compile all kernels for the devices of this machine; the seconds it took."""
    import warp as wp

    start = time.perf_counter()
    for device in wp.get_devices():
        for module in warp_modules(ahead=device.is_cuda):
            wp.load_module(module, device=device)
    return time.perf_counter() - start


def build_cuda(folder: Path, architectures: Sequence[int] = CUDA_ARCHITECTURES) -> list[Path]:
    """Compile all kernels ahead of time; the PTX files written."""
    import warp as wp

    folder.mkdir(parents=True, exist_ok=True)
    for module in warp_modules(ahead=True):
        for architecture in architectures:
            wp.compile_aot_module(module, arch=architecture, use_ptx=True, module_dir=folder)
    return sorted(folder.rglob("*.ptx"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="compile the Warp kernels of structwm")
    parser.add_argument("--cuda", type=Path, metavar="DIR", help="compile PTX for sm_80 and sm_90 into DIR; needs no GPU")
    options = parser.parse_args()
    if options.cuda is not None:
        written = build_cuda(options.cuda)
        sys.stdout.write(f"compiled {len(written)} PTX files into {options.cuda}\n")
    else:
        sys.stdout.write(f"kernels ready after {build():.1f} s\n")


if __name__ == "__main__":
    main()
