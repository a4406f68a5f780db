"""The command line of benchmarks that consist of parts: `--quick`, `--only PART ...`, and the line of claims last."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.claims import publish
from structwm.demos.pushing import one_thread

Part = Callable[[bool, Console], dict[str, Any]]  # from whether it is a quick run to claims


def run_parts(
    name: str,
    description: str | None,
    parts: Mapping[str, Part],
    *,
    quick: str,
    untimed: Collection[str] = (),
    long: Collection[str] = (),
    begin: Callable[[bool, Sequence[str]], None] | None = None,
    conclude: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Measure the parts that the command line names, print their tables, end with the JSON line.

    Args:
        name: of the benchmark.
        description: of the command line.
        parts: by name, in their order.
        quick: says what `--quick` leaves out.
        untimed: parts in which no time is measured; a quick run of everything does them in a second process.
        long: parts that a quick run does only where it is told to.
        begin: is told whether it is a quick run and which parts follow, to start what takes long.
        conclude: from the claims of the parts to these and what follows from them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", nargs="+", choices=list(parts), help="some parts only")
    options = parser.parse_args()
    chosen = options.only or [part for part in parts if not (options.quick and part in long)]
    console = Console(width=150)
    claims: dict[str, Any] = {}
    together = options.quick and not options.only and (os.cpu_count() or 1) > 1
    beside = [part for part in chosen if together and part in untimed]
    other = _start(name, beside) if beside else None
    if begin is not None:
        begin(options.quick, chosen)
    with one_thread():  # small launches are faster on one thread; what needs more says so
        for part in chosen:
            if part not in beside:
                claims |= parts[part](options.quick, console)
    publish(name, conclude(claims | (_finish(other) if other else {})))


def _start(name: str, parts: Collection[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--only", *parts]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the other process claims, after its tables are printed.

    Raises:
        RuntimeError: if it failed; what it said is on the error stream.
    """
    said, _ = process.communicate()
    *tables, last = said.rstrip().split("\n")
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, process.args))} failed with status {process.returncode}.")  # type: ignore[arg-type, call-overload]
    print("\n".join(tables))
    claims: dict[str, Any] = json.loads(last)["claims"]
    return claims
