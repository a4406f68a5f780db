"""Packages whose names load when first used: every name is there, and type checkers see the same names as a running program."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = (
    "structwm",
    "structwm.data",
    "structwm.geometry",
    "structwm.perception",
    "structwm.physics",
    "structwm.render",
    "structwm.splats",
    "structwm.training",
    "structwm.worlds",
)


def names_for_type_checkers(package: str) -> set[str]:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    blocks = [node for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {alias.asname or alias.name for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_loads(package):
    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", ["structwm", "structwm.data", "structwm.geometry", "structwm.perception", "structwm.physics", "structwm.render"])
def test_names_are_listed_before_they_load(package):
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names(package):
    module = import_module(package)
    defined_here = {name for name in module.__all__ if callable(vars(module).get(name)) and vars(module)[name].__module__ == package}
    assert names_for_type_checkers(package) | defined_here == set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = import_module(package).nothing
