"""What every benchmark prints last: one JSON line of measured claims."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structwm.roles import Interval


def settings_hash(*settings: Any) -> str:
    """Changes when settings of what is kept change; plain JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def differing(settings: Any) -> dict[str, Any]:
    """What a dataclass with defaults says otherwise than these: new fields change nothing of what was kept before."""
    return {field.name: value for field in fields(settings) if (value := getattr(settings, field.name)) != field.default}


def claim(value: float | None, *, n: int = 0, low: float | None = None, high: float | None = None, why: str | None = None) -> dict[str, Any]:
    """A measured number with how many measurements it rests on and a 90 % interval; null with `why` where it was not measured."""
    if value is None:
        return {"value": None, "why": why}
    return {"value": value, "n": n, "low": value if low is None else low, "high": value if high is None else high}


def mean_claim(values: np.ndarray) -> dict[str, Any]:
    """The mean of independent measurements."""
    reach = 1.645 * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return claim(mean, n=len(values), low=mean - reach, high=mean + reach)


def interval_claim(interval: Interval, n: int, *, scale: float = 1.0) -> dict[str, Any]:
    """An estimate from n measurements that has its interval, times `scale`."""
    return claim(scale * interval.value, n=n, low=scale * interval.low, high=scale * interval.high)


def fraction_claim(hits: int, n: int) -> dict[str, Any]:
    """A success rate with its Wilson score interval (1927)."""
    z, p = 1.645, hits / n
    centre, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return claim(p, n=n, low=(centre - reach) / (1 + z * z / n), high=(centre + reach) / (1 + z * z / n))


def median_claim(values: Sequence[float]) -> dict[str, Any]:
    """The median of repeated timings with their range."""
    return claim(float(np.median(values)), n=len(values), low=min(values), high=max(values))


def device() -> str:
    """The machine, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def commit() -> str:
    """The commit that was measured, with a + where the working tree differs from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def publish(name: str, claims: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the last line."""
    print(json.dumps({"benchmark": name, "device": device(), "commit": commit(), "claims": claims}, allow_nan=False))
