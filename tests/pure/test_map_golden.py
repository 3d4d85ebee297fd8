"""Maps as pictures and as text, against golden files: what a person has looked at stays as it is.

To write the golden files anew: ``UPDATE_GOLDEN=1 pytest tests/pure/test_map_golden.py``, then look at the pictures.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from map_worlds import Elements, container, endpoint, network, node, routed, star

from ctlab.notebook.map_svg import map_svg
from ctlab.notebook.map_text import map_text

GOLDEN = Path(__file__).resolve().parents[1] / "golden/maps"


def states() -> Elements:
    """Every state, and every way to end."""
    elements = [node("host"), network("blue")]
    for index, (name, state, ended, failed) in enumerate(
        (
            ("server", "running", "", False),
            ("waiting", "paused", "", False),
            ("new", "created", "", False),
            ("done", "exited", "", False),
            ("wrong", "exited", "status 3", True),
            ("hungry", "exited", "OOM", True),
            ("stopped", "exited", "SIGTERM", False),
            ("crashed", "exited", "SIGSEGV", True),
            ("away", "removed", "", False),
            ("cut-off", "lost", "", False),
        )
    ):
        how: dict[str, object] = {"ended": ended, "failed": failed} if ended else {}
        elements += [{**container(name, state), **how}, endpoint(name, "blue", f"10.10.0.{index + 2}")]
    return elements


def campus(count: int) -> Elements:
    """Five networks with containers on each, and four routers on two or three of them."""
    elements: Elements = [node("host"), *(network(f"net{index}", subnet=f"10.{index}.0.0/24") for index in range(5))]
    for index in range(count - 4):
        on = index % 5
        elements += [container(f"c{index}"), endpoint(f"c{index}", f"net{on}", f"10.{on}.0.{index // 5 + 2}")]
    for number, on in enumerate(((0, 1), (0, 2, 4), (1, 3), (2, 3, 4))):
        elements.append(container(f"router{number}"))
        elements += [endpoint(f"router{number}", f"net{index}", f"10.{index}.0.{250 + number}") for index in on]
    return elements


WORLDS = {
    "router-3": routed(3),
    "router-7": routed(7),
    "states": states(),
    "one-network-70": star(70),
    "campus-70": campus(70),
    "campus-200": campus(200),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_map_is_drawn_as_it_was(name: str) -> None:
    picture = re.sub(r"<style>.*?</style>", "<style/>", map_svg(WORLDS[name]))  # colours aren't the subject
    found = {
        f"{name}.svg": picture.replace("><", ">\n<") + "\n",
        f"{name}.txt": map_text(WORLDS[name], title=name) + "\n",
    }
    for file, text in found.items():
        if os.environ.get("UPDATE_GOLDEN"):
            (GOLDEN / file).write_text(text, encoding="utf-8")
        assert text == (GOLDEN / file).read_text(encoding="utf-8")


def test_every_golden_map_has_its_world() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(WORLDS)
