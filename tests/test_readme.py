"""The README's code runs, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_own_model_plans_to_its_velocity():
    scope: dict = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), scope)
    assert float((scope["state"].velocity - 0.5).abs().max()) < 0.1
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 24


def test_calibration_example(data_dir, capsys):
    data_dir("mit_push")
    scope: dict = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), scope)
    errors = scope["calibration"].errors
    assert errors["held out"]["x"] < 0.3 * errors["persistence"]["x"]
    assert scope["cousins"].spec.members == 16


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
