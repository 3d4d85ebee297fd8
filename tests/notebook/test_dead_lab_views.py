"""What shows a lab that has died stays to be read, and says that it is gone."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from kernel_help import wait_until

import ctlab
from ctlab.errors import LabGone
from ctlab.notebook.dashboard import Dashboard
from ctlab.notebook.topology import Topology

pytestmark = pytest.mark.kernel
WHY = "died: its supervisor ended (SIGKILL)"


@pytest.fixture
def world(usable: None) -> Any:
    """A lab with a container on a network, both with a card."""
    lab = ctlab.Lab("x")
    lab.network("blue")
    lab.run(name="web", networks=["blue"])
    yield lab
    lab.stop()


def kill(lab: Any) -> None:
    os.kill(lab._client.facts["supervisor"], signal.SIGKILL)
    assert wait_until(lambda: lab.gone and lab.why_gone == WHY)  # the reason is known a moment later


def test_the_map_follows_until_the_end_and_says_it(world: Any) -> None:
    live, still = world.topology(), Topology(world)
    still.freeze()
    kill(world)
    assert wait_until(lambda: WHY in live.text and "! web  lost" in live.text)
    lines = live.text.splitlines()
    assert lines[0] == f"x ({WHY}): 1 node, 1 network, 1 container"
    assert WHY in live._repr_mimebundle_()["text/html"] and live._state()["name"] == f"x ({WHY})"
    later = world.topology()
    assert later.text == live.text
    world.stop()
    assert WHY not in world.topology().text  # known, and cleared up


def test_tables_and_cards_say_it(world: Any) -> None:
    listings = (world.containers, world.networks, world.nodes)
    assert not any("died" in repr(table) + table._repr_html_() for table in listings)
    kill(world)
    for table in (world.containers, world.networks, world.nodes):
        assert repr(table).splitlines()[-1] == f"(as it was: lab 'x' {WHY})"
        assert f"as it was: lab &#x27;x&#x27; {WHY}" in table._repr_html_()
    assert world.containers.frame()["state"][0] == "lost"
    assert repr(world) == "<Lab x: died>" and WHY.partition(": ")[2] in world._repr_html_()
    assert repr(world["web"]).startswith("<Container web: lost") and "lost" in world["web"]._repr_html_()


def test_a_chart_ends_and_says_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    monkeypatch.setattr("ctlab.notebook.shown.put", lambda *_: None)
    monkeypatch.setattr("ctlab.notebook.shown.replace", lambda bundle, _: shown.append(bundle))
    monkeypatch.setattr("ctlab.notebook.dashboard.has_kernel", lambda: True)
    chart = Dashboard(world, refresh_hz=10)
    chart._ipython_display_()
    assert chart.live and chart.updates
    kill(world)
    assert wait_until(lambda: len(shown) == 2, 10)  # the view, the picture
    assert not chart.live and f"lab &#x27;x&#x27; {WHY}" in shown[-1]["text/html"]
    with pytest.raises(LabGone, match="died: its supervisor ended"):  # the rings that were mapped are the dead one's
        world.stats()
