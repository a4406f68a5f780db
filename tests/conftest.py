"""What all tests share: where recorded data is, and one thread a worker when several run side by side."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # must be set before torch loads; two workers with a thread for every core each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """Gives the folder of a recorded data set, or skips the test with the command that brings the set."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("STRUCTWM_DATA", "")) / name
        if "STRUCTWM_DATA" not in os.environ or not folder.is_dir():
            pytest.skip(f"needs the set {name}: run `structwm fetch {name}`, or set STRUCTWM_DATA to a folder that contains {name}/")
        return folder

    return find


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread; on busy cores the threads of small operations wait for each other."""
    from structwm.demos.pushing import one_thread

    with one_thread():
        yield
