"""Single faults, each as root and as an ordinary user in four situations; see `faults_scenarios` for what they are."""

from __future__ import annotations

import faults_scenarios
import faults_world
import pytest

pytestmark = pytest.mark.faults

NAMES = [scenario.__name__ for scenario in faults_scenarios.SCENARIOS]


@pytest.fixture(scope="module", params=["root", "user-v1", "user", "user-none"])
def results(request: pytest.FixtureRequest, ordinary: dict[str, int], usable: None) -> dict[str, str]:
    """What the judge says of every scenario, run once in one world."""
    order = {"who": request.param} | ordinary
    return faults_world.enter("faults_scenarios.py", order, timeout=400)


@pytest.mark.parametrize("name", NAMES)
def test_fault(name: str, results: dict[str, str]) -> None:
    """One scenario; the judge's sentence is the message."""
    assert results[name] == ""
