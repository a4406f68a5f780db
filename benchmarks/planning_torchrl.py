"""TorchRL's planners behind a pipe: it wants another tensordict than this project, so it lives in an environment of its own and answers from there.

`make peers` builds that in `build/torchrl`; another place is named by the environment variable STRUCTWM_TORCHRL (a Python interpreter).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


class TorchrlProcess:
    """A process of `benchmarks.planning_peer_torchrl` that does one request after the other.

    Raises:
        RuntimeError: if it does not start; the message says why in a few words.
    """

    def __init__(self) -> None:
        python = Path(os.environ.get("STRUCTWM_TORCHRL", ROOT / "build" / "torchrl" / "bin" / "python"))
        if not python.exists():
            raise RuntimeError("TorchRL is not installed in an environment of its own (make peers does that)")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [str(python), "-m", "benchmarks.planning_peer_torchrl"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.version: str = self.ask(job="version")
        except RuntimeError:
            self.close()
            raise

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError("TorchRL's process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"TorchRL's process failed: {answer['error']}")
        return answer["value"]

    def prepare(self, planner: str, task: str, problems: int, settings: dict[str, Any], seed: int = 0) -> None:
        """Build a planner ("cem" or "mppi") for a task by its name; the next `time` plans with it."""
        self.ask(job="prepare", planner=planner, task=task, problems=problems, settings=settings, seed=seed)

    def time(self) -> float:
        """Seconds of one plan, measured there."""
        return float(self.ask(job="time"))

    def episodes(self, planner: str, task: str, starts: Sequence[Sequence[float]], settings: dict[str, Any], seed: int) -> list[float]:
        """The cost that each start state's episode comes to; all at once."""
        costs: list[float] = self.ask(job="episodes", planner=planner, task=task, starts=starts, settings=settings, seed=seed)
        return costs

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
