"""The command line of benchmarks that consist of parts: `--quick`, `--only PART ...`, and the line of claims last."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from benchmarks.claims import publish
from structwm.demos.pushing import one_thread

Part = Callable[[bool, Console], dict[str, Any]]  # from whether it is a quick run to claims


def run_parts(name: str, description: str | None, parts: Mapping[str, Part], *, quick: str) -> None:
    """Measure the parts that the command line names, print their tables, end with the JSON line; `quick` says what `--quick` leaves out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), help="some parts only")
    options = parser.parse_args()
    console = Console(width=150)
    claims: dict[str, Any] = {}
    with one_thread():  # small launches are faster on one thread; what needs more says so
        for part in options.only:
            claims |= parts[part](options.quick, console)
    publish(name, claims)
