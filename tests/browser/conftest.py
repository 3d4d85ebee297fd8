"""Fixtures: one JupyterLab and one Chromium for all browser tests, and a notebook for each.

A test fails if its page logged an error or asked another machine for anything. A failed test leaves a screenshot in
the folder that ``CTLAB_SHOTS`` names (by default pytest's temporary one).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_browser import CHROMIUM, CHROMIUM_FLAGS, ROOT, Notebook, Server

OpenNotebook = Callable[..., Notebook]
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Let the notebook fixture know that its test failed."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """What the tests need has to be there: JupyterLab, what drives a browser, the widgets' scripts."""
    pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    pytest.importorskip("jupyterlab", reason="browser tests need JupyterLab")
    for name in ("topology", "chart"):
        if not (ROOT / f"ctlab/static/{name}.js").is_file():
            pytest.skip(f"ctlab/static/{name}.js isn't built (pip install -e . builds it)")


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running JupyterLab server."""
    server = Server(tmp_path_factory.mktemp("jupyterlab"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running Chromium: the system's, or the one that ``CTLAB_CHROMIUM`` names."""
    program = os.environ.get("CTLAB_CHROMIUM", CHROMIUM)
    if not Path(program).is_file():
        pytest.skip(f"no Chromium at {program} (apt-get install chromium, or set CTLAB_CHROMIUM)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        # What Chromium keeps in a runtime folder is no left-over of a lab.
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("chromium"))}
        chromium = running.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS), env=environment)
        yield chromium
        chromium.close()


@pytest.fixture
def notebook(
    jupyterlab: Server, browser: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[OpenNotebook]:
    """Opens a notebook: ``notebook([source, …] or a file, dark=False)``; closed, and judged, at the end of the test."""
    opened: list[Notebook] = []
    name = re.sub(r"\W+", "-", request.node.name)

    def open_notebook(cells: list[str] | Path, *, dark: bool = False) -> Notebook:
        opened.append(Notebook(jupyterlab, browser, f"{name}-{len(opened)}", cells, dark=dark))
        return opened[-1]

    yield open_notebook
    problems = []
    for each in opened:
        if request.node.stash.get(FAILED, True):
            folder = Path(os.environ.get("CTLAB_SHOTS", tmp_path))
            each.picture(folder / f"{each.path.stem}.png")
        problems += each.problems
        each.close()
    assert not problems, "the page had problems:\n" + "\n".join(problems)
