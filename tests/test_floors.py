"""The floors of the house hold, and each kind of breach is found: who may import whom stands in pyproject.toml."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("structwm", "physics", "symbolic", "pointtracks")


def check_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture
def house(tmp_path) -> Callable[[str, str], Path]:
    """A copy of the sources, with a line added to one of their files."""

    def copy(file: str, line: str) -> Path:
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        path = tmp_path / file
        path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
        return tmp_path

    return copy


def test_floors_hold():
    done = check_imports(ROOT)
    assert done.returncode == 0, done.stdout


BREACHES = {
    "a lower floor imports a higher one": ("structwm/data/episode.py", "import structwm.planning.mpc"),
    "a name imports one to its right": ("structwm/state.py", "from .scene import Scene"),
    "a family imports a family": ("symbolic/__init__.py", "from structwm.physics import pushing"),
    "a family imports a planner": ("physics/twin.py", "from structwm.planning import mppi"),
    "a family imports a world": ("physics/twin.py", "from structwm.worlds import pushing as world"),
    "a planner imports a family": ("structwm/planning/mpc.py", "from structwm.physics.pushing import PushTwin"),
    "a planner imports a world": ("structwm/planning/mpc.py", "import structwm.worlds"),
    "a role imports a family": ("structwm/roles/breach.py", "import structwm.symbolic"),
    "a room that no floor knows": ("structwm/attic.py", ""),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_is_found(breach, house):
    done = check_imports(house(*BREACHES[breach]))
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("line", ["import physics", "from symbolic import search", "import pointtracks.models"])
def test_top_level_family_is_refused_by_the_linter(line, house):
    root = house("structwm/check.py", line)
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--select", "TID251", "structwm/check.py"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "import it as structwm." in done.stdout


def test_library_does_not_import_its_own_front():
    """`from structwm import NAME` loads the name from a table at run time, so the floors could not see which room it comes from."""
    found = []
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "structwm" and any(alias.name in _front_names() for alias in node.names):
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"import from the room itself, not from structwm: {found}"


def _front_names() -> frozenset[str]:
    import structwm

    return frozenset(structwm.__all__)
