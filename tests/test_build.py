"""The kernel build: complete, quick when there is nothing to do, and able to compile the CUDA branch without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import warp as wp

import structwm.kernels
from structwm.kernels import build


def test_every_kernel_module_is_found():
    files = {path.stem for path in Path(structwm.kernels.__path__[0]).glob("*.py")} - {"__init__", "build"}
    assert {module.__name__.rpartition(".")[2] for module in build.kernel_modules()} == files


def test_second_build_compiles_nothing():
    """In the cache that the tests themselves use, where `make test` has built everything and other tests may be adding kernels of their own."""

    def compiled() -> dict[Path, int]:
        subprocess.run([sys.executable, "-m", "structwm.kernels.build"], check=True)
        ours = (path for path in Path(wp.config.kernel_cache_dir).rglob("*.o") if "structwm" in path.name or "__locals__" in path.name)
        return {path: path.stat().st_mtime_ns for path in ours}

    first = compiled()
    second = compiled()
    assert {path: second[path] for path in first} == first != {}
    assert len(first) >= len(build.warp_modules())


def test_nothing_to_build_is_fine(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "kernel_modules", list)
    assert build.build() < 1.0
    assert build.build_cuda(tmp_path) == []


def test_cuda_branch_compiles_without_a_gpu(tmp_path):
    """For the oldest architecture, which has least and whose PTX runs on later ones; `python -m structwm.kernels.build --cuda` compiles for all."""
    architecture = min(build.CUDA_ARCHITECTURES)
    written = build.build_cuda(tmp_path, [architecture])
    targets = [re.findall(r"^\.target\s+sm_(\d+)", path.read_text(), flags=re.MULTILINE) for path in written]
    assert targets == [[str(architecture)]] * len(build.warp_modules(ahead=True))
