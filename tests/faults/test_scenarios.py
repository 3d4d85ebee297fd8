"""Single faults, each as root and as an ordinary user in four situations; see `faults_scenarios` for what they are."""

from __future__ import annotations

from typing import Any

import faults_scenarios
import faults_world
import pytest

pytestmark = pytest.mark.faults

NAMES = [scenario.__name__ for scenario in faults_scenarios.SCENARIOS]


def _who(name: str, *, long: bool = False) -> Any:
    """A world; the user's further ones in the long form."""
    return pytest.param(name, marks=[pytest.mark.long] if long else [])


WHO = [_who("root"), _who("user-v1", long=True), _who("user", long=True), _who("user-none", long=True)]


@pytest.fixture(scope="module", params=WHO)
def results(request: pytest.FixtureRequest, ordinary: dict[str, int], usable: None) -> dict[str, str]:
    """What the judge says of every scenario, run once in one world."""
    order = {"who": request.param} | ordinary
    return faults_world.enter("faults_scenarios.py", order, timeout=400)


@pytest.mark.parametrize("name", NAMES)
def test_fault(name: str, results: dict[str, str]) -> None:
    """One scenario; the judge's sentence is the message."""
    assert results[name] == ""
