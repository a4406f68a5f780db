"""What is built and installed: the wheel, made from the source distribution, holds the whole library and nothing beside it."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import structwm

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("physics", "symbolic", "pointtracks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def library_files() -> Iterator[tuple[str, Path]]:
    """Every file of the library: its path once installed, and where it is in the repository."""
    for path in sorted((ROOT / "structwm").rglob("*")):
        if path.is_file() and not path.parent.is_symlink() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path
    for family in FAMILIES:
        for path in sorted((ROOT / family).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"structwm/{path.relative_to(ROOT).as_posix()}", path


PACKAGES = sorted({Path(name).parent.as_posix().replace("/", ".") for name, _ in library_files()})  # a folder of data counts as a package too


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel built from it, offline."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("structwm", *FAMILIES):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.toml", "*.in", "README.md", "LICENSE"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=source)  # the wheel is made from the unpacked sdist
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel; what the library depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", distributions[1], cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # searched after the wheel; the .pth files in there are not read
    return python


def test_every_package_is_listed():
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == PACKAGES, "list every folder that holds files under [tool.setuptools] packages"


def test_wheel_holds_the_whole_library(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        found = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == {name: path.read_bytes() for name, path in library_files()}


def test_wheel_installs_nothing_but_structwm(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {"structwm", f"structwm-{structwm.__version__}.dist-info"}


def test_sdist_holds_each_family_once(distributions):
    with tarfile.open(distributions[0]) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    for family in FAMILIES:
        assert names.count(f"{family}/__init__.py") == 1
        assert not [name for name in names if name.startswith(f"structwm/{family}")]
    assert "LICENSE" in names


def test_every_package_imports_from_the_wheel(installed, tmp_path):
    code = "import sys, importlib\nfor name in sys.argv[1:]: print(*importlib.import_module(name).__path__)"
    folders = run(installed, "-c", code, *PACKAGES, cwd=tmp_path).splitlines()
    assert [Path(folder).is_relative_to(installed.parents[1]) for folder in folders] == [True] * len(PACKAGES)


def test_installed_library_works(installed, tmp_path):
    run(installed, "-c", "import structwm; [getattr(structwm, name) for name in structwm.__all__]", cwd=tmp_path)
    assert "mit_push" in run(installed.with_name("structwm"), "fetch", "--help", cwd=tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_not_a_top_level_package(family, installed, tmp_path):
    done = subprocess.run([installed, "-c", f"import {family}"], cwd=tmp_path, capture_output=True, text=True)
    assert f"ModuleNotFoundError: No module named '{family}'" in done.stderr
    done = subprocess.run([sys.executable, "-c", f"import {family}"], cwd=ROOT, capture_output=True, text=True)
    assert f"ImportError: import structwm.{family} instead of {family}" in done.stderr


def test_version_stands_in_one_form():
    assert PROJECT["project"]["version"] == structwm.__version__


def test_every_dependency_is_pinned():
    """By its name in constraints.txt, except torch, whose build is the user's choice."""

    def name_of(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()

    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    pinned = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and not line.startswith("#")}
    assert {name_of(requirement) for group in groups for requirement in group} - {"structwm", "torch"} <= pinned
