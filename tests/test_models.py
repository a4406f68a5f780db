"""The conformance suite of transition models: every model in `tests/models.py` passes `check_model`."""

import pytest

from structwm.check import check_model
from tests.models import CASES


@pytest.mark.parametrize("name", CASES)
def test_model_keeps_the_contract(name):
    make, states = CASES[name]
    findings = check_model(make(), states(6))
    assert all(finding.passed for finding in findings)
    assert len(findings) > 10
