"""A keyword that isn't there is a BadInput of one line, whichever public method it is for."""

from __future__ import annotations

import inspect
import re

import pytest

import ctlab
from ctlab.completed import Completed, Process
from ctlab.container import Container
from ctlab.errors import BadInput
from ctlab.handles import Handles
from ctlab.network import Network
from ctlab.notebook.topology import Topology

METHODS = [
    (cls, name)
    for cls in (ctlab.Lab, Container, Network, Handles, Process, Completed, Topology)
    for name, function in vars(cls).items()
    if inspect.isfunction(function) and not name.startswith("_")
]
# What takes any keyword looks at them only with a lab at hand: tests/kernel/test_bad_input_python.py.
OPEN = {(cls, name) for cls, name in METHODS if "**" in str(inspect.signature(getattr(cls, name)))}


@pytest.mark.parametrize(("cls", "name"), [pair for pair in METHODS if pair not in OPEN])
def test_it_is_said_what_there_is(cls: type, name: str) -> None:
    with pytest.raises(BadInput) as told:
        getattr(cls, name)(object.__new__(cls), no_such_keyword=1)
    assert "no_such_keyword=" in str(told.value) and "\n" not in str(told.value)


def test_the_nearest_is_named_and_where_there_is_none_that_is_said() -> None:
    container = object.__new__(Container)
    with pytest.raises(BadInput, match=r"^no keyword timout=; did you mean timeout=\?$"):
        container.stop(timout=3)  # type: ignore[call-arg]
    with pytest.raises(BadInput, match=r"^remove takes no keywords: force=$"):
        container.remove(force=True)  # type: ignore[call-arg]


def test_dockers_words_are_answered_where_the_answer_holds() -> None:
    container, lab = object.__new__(Container), object.__new__(ctlab.Lab)
    for word, said in (
        ("remove", "it is called rm"), ("volumes", "they are called mounts"), ("environment", "it is called env"),
        ("detach", "Lab.run always is detached; lab.run(...).wait() waits"), ("publish", "published ports come "),
        ("privileged", "containers of a lab are never privileged"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=f"^{word}= isn't in ctlab: {re.escape(said)}"):
            lab.run(["true"], **{word: 1})
        with pytest.raises(BadInput, match=f"^no keyword {word}=; "):
            container.stop(**{word: 1})
    with pytest.raises(BadInput, match=r"^environment= isn't in ctlab: it is called env$"):
        container.exec("true", environment={})  # type: ignore[call-arg]
    with pytest.raises(BadInput, match=r"^no keyword volumes=; "):
        container.exec("true", volumes=[])  # type: ignore[call-arg]


def test_few_take_any() -> None:
    assert {f"{cls.__name__}.{name}" for cls, name in OPEN} == {
        "Lab.run", "Lab.stats", "Container.stats", "Container.update",
    }  # fmt: skip
