"""The command line: quick, light, and clear when it cannot do what was asked."""

import os
import subprocess
import sys
import time
from importlib import import_module

import pytest

import structwm
from structwm import cli

HEAVY = ("torch", "warp", "tensordict", "numpy", "gymnasium", "scipy", "matplotlib")


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after it ran the code."""
    report = f"\nimport sys\nsys.stderr.write(' '.join(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_names_every_job(capsys):
    cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text and purpose in text for name, (_, purpose) in cli.JOBS.items())


def test_help_loads_nothing_heavy():
    assert loaded_after("from structwm.cli import main; main(['--help'])") == set()


def test_lazy_packages_load_nothing_heavy():
    assert loaded_after("import structwm, structwm.physics, structwm.symbolic, structwm.pointtracks, structwm.data") == set()


def test_help_answers_in_half_a_second():
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "structwm.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5  # the best of five: the machine may be busy with other tests


@pytest.mark.parametrize("name", cli.JOBS)
def test_every_job_exists(name):
    module, function = cli.JOBS[name][0].split(":")
    assert callable(getattr(import_module(module), function))


def test_demo_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0
    assert "structwm demo" in capsys.readouterr().out


def test_unknown_job_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["dance"])
    assert stop.value.code == 2
    assert "no job 'dance'; it has demo, fetch, version" in capsys.readouterr().err


def test_version_says_what_it_stands_on(capsys):
    cli.main(["version"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["structwm"] == structwm.__version__
    assert {"python", "torch", "warp-lang", "device"} <= rows.keys()


def test_fetch_finds_data_on_this_machine(tmp_path, monkeypatch, capsys):
    from structwm.data.registry import data_source

    for file in data_source("mit_push").files:
        path = tmp_path / "mit_push" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv("STRUCTWM_DATA", str(tmp_path))
    cli.main(["fetch", "mit_push"])
    assert str(tmp_path / "mit_push") in capsys.readouterr().out.replace(os.linesep, "")


@pytest.mark.parametrize(("names", "sentence"), [(["unheard_of"], "unheard_of"), ([], "mit_push")])
def test_fetch_refuses_in_a_sentence(names, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fetch", *names])
    assert stop.value.code != 0
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bad number."), BlockingIOError("the folder is in use."), ImportError("a package is missing.")])
@pytest.mark.parametrize("job", ["demo", "evaluate", "render", "fetch"])
def test_what_cannot_be_done_ends_with_its_sentence_alone(job, error, monkeypatch, capsys):
    def fails(*arguments, **options):
        raise error

    module = {"demo": "structwm.demos.pushing", "evaluate": "structwm.demos.evaluating", "render": "structwm.demos.render_file", "fetch": "structwm.data"}[job]
    monkeypatch.setattr(import_module(module), "fetch" if job == "fetch" else "main", fails)
    with pytest.raises(SystemExit) as stop:
        cli.main([job, *{"demo": [], "evaluate": ["model", "episodes"], "render": ["scene.ply"], "fetch": ["mit_push"]}[job]])
    assert stop.value.code == 1 and capsys.readouterr().err == f"{error}\n"
