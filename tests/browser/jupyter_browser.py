"""A JupyterLab server and a notebook in Chromium, for tests: all on this machine, all files in a temporary folder.

Waiting is always for an event (a state of the page or of the kernel), never for a time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:  # without them the tests are skipped by their conftest.py, which imports this
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Response

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
CELL_MS = 40_000
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SETTINGS: dict[str, dict[str, object]] = {
    # News: neither asked about, in a box that hides the notebook, nor fetched.
    "apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
    # All cells in the page at all times, so that a cell's number finds it.
    "notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}

_READY = """async () => {
  const panel = jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await panel.revealed;
}"""
_START = """(index) => {
  jupyterapp.shell.currentWidget.content.activeCellIndex = index;
  jupyterapp.commands.execute('notebook:run-cell');
}"""
_RUN = """async (index) => {
  const panel = jupyterapp.shell.currentWidget;
  panel.content.activeCellIndex = index;
  await jupyterapp.commands.execute('notebook:run-cell');
}"""


class Server:
    """JupyterLab on 127.0.0.1, all its folders below ``folder``; `stop` ends it with its kernels."""

    def __init__(self, folder: Path) -> None:
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        homes = {
            name: str(folder / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        settings = Path(homes["JUPYTER_CONFIG_DIR"], "lab/user-settings/@jupyterlab")
        for name, values in SETTINGS.items():
            (settings / name).parent.mkdir(parents=True, exist_ok=True)
            (settings / name).write_text(json.dumps(values))
        # The tree under test, whether it is installed or not.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": str(self.port),
            "ServerApp.port_retries": "0",
            "ServerApp.disable_check_xsrf": "True",
            "ServerApp.root_dir": str(self.notebooks),
            "IdentityProvider.token": "",
            "LabApp.expose_app_in_browser": "True",
        }
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
                + [f"--{name}={value}" for name, value in options.items()],
                env={**os.environ, **homes, "PYTHONPATH": path},
                cwd=self.notebooks,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/api/status", timeout=2):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"JupyterLab didn't start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server, which ends its kernels."""
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Notebook:
    """One notebook, open in a page of its own, whose kernel is ready. Cells are numbered from 0."""

    def __init__(
        self, server: Server, browser: Browser, name: str, cells: Sequence[str] | Path, dark: bool = False
    ) -> None:
        """`cells`: the sources of code cells, or a notebook's file, of which a copy is opened."""
        import nbformat

        self.server = server
        self.path = server.notebooks / f"{name}.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        if isinstance(cells, Path):
            content = nbformat.read(cells, as_version=4)
        else:
            code = [nbformat.v4.new_code_cell(source, id=f"cell-{index}") for index, source in enumerate(cells)]
            content = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel})
        nbformat.write(content, self.path)
        self.problems: list[str] = []
        self._context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(CELL_MS)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error.stack or error}"))
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)
        self.open()
        if dark:
            self.theme("JupyterLab Dark")

    def open(self) -> None:
        """Load (or reload) the page, and wait until the kernel answers: a cell run earlier may get lost."""
        self.page.goto(f"{self.server.url}/doc/tree/{self.path.name}?reset")
        self.page.wait_for_selector(".jp-Notebook")
        self.page.evaluate(_READY)

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme (``JupyterLab Light``, ``JupyterLab Dark``)."""
        # What hides the page meanwhile fades away; a second change before that makes JupyterLab remove it twice.
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        light = "false" if "Dark" in name else "true"
        body = f'body[data-jp-theme-light="{light}"][data-jp-theme-name="{name}"]'
        self.page.wait_for_selector(body, state="attached")

    def run(self, index: int) -> None:
        """Run a cell to its end. An error in it is an output, see `outputs`."""
        self.page.evaluate(_RUN, index)

    def start(self, index: int) -> None:
        """Run a cell, and don't wait for its end."""
        self.page.evaluate(_START, index)

    def busy(self, index: int) -> bool:
        """Whether a cell has been started and hasn't ended."""
        return self.cell(index).locator(".jp-InputPrompt").inner_text() == "[*]:"

    def good(self, index: int) -> None:
        """Run a cell that must not fail."""
        self.run(index)
        assert [output for output in self.outputs(index) if output["output_type"] == "error"] == []

    def cell(self, index: int) -> Locator:
        """The cell, as an element of the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """The place of a cell's outputs; the source isn't in it."""
        return self.cell(index).locator(".jp-OutputArea").first

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The outputs of a cell as the page would save them now (nbformat)."""
        found: str = self.page.evaluate(
            "(index) => JSON.stringify(jupyterapp.shell.currentWidget.content.widgets[index].model.outputs.toJSON())",
            index,
        )
        outputs: list[dict[str, Any]] = json.loads(found)
        return outputs

    def restart(self) -> None:
        """A new kernel; outputs stay."""
        self.page.evaluate(
            "async () => { await jupyterapp.shell.currentWidget.sessionContext.restartKernel(); }",
        )
        self.page.evaluate(_READY)

    def save(self) -> Any:
        """Save as a person would; returns the file, read back."""
        import nbformat

        self.page.evaluate("async () => { await jupyterapp.shell.currentWidget.context.save(); }")
        return nbformat.read(self.path, as_version=4)

    def picture(self, path: Path) -> None:
        """A screenshot of the whole notebook, not only of what fits into the window."""
        before = self.page.viewport_size
        scroller = self.page.locator(".jp-WindowedPanel-outer").first
        height = scroller.evaluate("(box) => { box.scrollTop = 0; return box.scrollHeight; }")
        self.page.set_viewport_size(
            {"width": 1280, "height": height - scroller.evaluate("(box) => box.clientHeight") + 1000}
        )
        self.page.wait_for_timeout(500)  # charts and maps are drawn anew, which nothing announces
        self.page.screenshot(path=path)
        self.page.set_viewport_size(before)

    def close(self) -> None:
        """Close the page and end its kernel, unsaved."""
        try:
            self.page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
        finally:
            self._context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console.error: {message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.problems.append(f"request to another machine: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 500:
            self.problems.append(f"{response.status} from {response.url}")
