"""Cells are run here in two ways: in a shell inside the test's own process, and in a real kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shell:
    """An IPython shell in this process. `run` gives the value of a cell; an error in it is raised here."""

    def __init__(self, shell: Any) -> None:
        self.ip = shell

    def run(self, cell: str) -> Any:
        """Run a cell: its value."""
        result = self.ip.run_cell(cell, store_history=True)
        result.raise_error()
        return result.result

    def fails(self, cell: str) -> BaseException:
        """Run a cell that must fail: its error."""
        result = self.ip.run_cell(cell, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        assert error is not None, f"no error in: {cell}"
        return error

    @property
    def lab(self) -> Any:
        """The current lab."""
        from ctlab import labs

        return labs.current()


@pytest.fixture(scope="session")
def make_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Shell]]:
    """Makes a fresh IPython shell without the extension, in the place of the one before."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"

        def make() -> Shell:
            InteractiveShell.clear_instance()
            return Shell(InteractiveShell.instance(config=config))

        yield make
        InteractiveShell.clear_instance()


@pytest.fixture
def bare_shell(make_shell: Callable[[], Shell]) -> Shell:
    """A fresh shell without the extension."""
    return make_shell()


@pytest.fixture
def shell(bare_shell: Shell, usable: None) -> Iterator[Shell]:
    """A fresh shell with the extension; the labs that it started are stopped at the end."""
    from ctlab import labs

    made = bare_shell
    made.run("%load_ext ctlab")
    yield made
    for lab in labs.running():
        lab.stop()
    made.run("%unload_ext ctlab")


class Cell:
    """What came back from a cell: outputs in order, and the parts that tests look at."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []  # when each message came, as time.monotonic
        self.reply: dict[str, Any] = {}

    def stream(self, name: str = "stdout") -> str:
        """What was printed."""
        texts = [
            m["content"]["text"] for m in self.messages if m["msg_type"] == "stream" and m["content"]["name"] == name
        ]
        return "".join(texts)

    @property
    def value(self) -> str | None:
        """The text of its value."""
        for message in self.messages:
            if message["msg_type"] == "execute_result":
                return str(message["content"]["data"]["text/plain"])
        return None

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The data of what it displayed."""
        return [m["content"]["data"] for m in self.messages if m["msg_type"] == "display_data"]

    @property
    def updates(self) -> list[dict[str, Any]]:
        """The data with which earlier outputs were replaced."""
        return [m["content"]["data"] for m in self.messages if m["msg_type"] == "update_display_data"]

    @property
    def error(self) -> dict[str, Any] | None:
        """Its error output: ename, evalue, traceback (plain lines)."""
        for message in self.messages:
            if message["msg_type"] == "error":
                content = message["content"]
                lines = [ANSI.sub("", line) for line in content["traceback"]]
                return {"ename": content["ename"], "evalue": content["evalue"], "traceback": lines}
        return None

    def when(self, text: str) -> float:
        """When that text was printed, as time.monotonic."""
        for message, moment in zip(self.messages, self.times, strict=True):
            if message["msg_type"] == "stream" and text in message["content"]["text"]:
                return moment
        raise AssertionError(f"{text!r} was not printed: {self.stream()!r}")


class Kernel:
    """A real kernel, spoken to as a front end does."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str, cell_id: str | None = None) -> str:
        """Send a cell and don't wait: what `finish` and `until` want. `cell_id`: as a page names its cells."""
        self._current = Cell()
        self._done = False
        content = {
            "code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
            "stop_on_error": True,
        }  # fmt: skip
        metadata = {} if cell_id is None else {"cellId": cell_id}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        self.message_id = str(message["header"]["msg_id"])
        return self.message_id

    def until(self, text: str, timeout: float = 20.0) -> None:
        """Wait until that text has been printed."""
        until = time.monotonic() + timeout
        while not any(text in self._current.stream(name) for name in ("stdout", "stderr")):
            assert time.monotonic() < until and not self._done, f"{text!r} isn't in {self._current.stream()!r}"
            self._one(until)

    def finish(self, timeout: float = 30.0) -> Cell:
        """Wait for the end of the cell."""
        until = time.monotonic() + timeout
        while not self._done:
            self._one(until)
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, until - time.monotonic()))
            if reply["parent_header"].get("msg_id") == self.message_id:
                break
        self._current.reply = reply["content"]
        return self._current

    def _one(self, until: float) -> None:
        message = self.client.get_iopub_msg(timeout=max(0.1, until - time.monotonic()))
        if message["parent_header"].get("msg_id") != self.message_id:
            return
        if message["msg_type"] == "status":
            self._done = self._done or message["content"]["execution_state"] == "idle"
        else:
            self._current.messages.append(message)
            self._current.times.append(time.monotonic())

    def run(self, code: str, timeout: float = 30.0, cell_id: str | None = None) -> Cell:
        """Run a cell to its end; an error in it is part of what comes back."""
        self.start(code, cell_id)
        return self.finish(timeout)

    def good(self, code: str, timeout: float = 30.0) -> Cell:
        """Run a cell that must not fail."""
        cell = self.run(code, timeout)
        assert cell.error is None, cell.error
        return cell

    def interrupt(self) -> None:
        """What the Stop button does."""
        self.manager.interrupt_kernel()

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def module_kernel(usable: None, runtime_base: Path) -> Iterator[Kernel]:
    """One kernel for all tests of a module."""
    made = Kernel()
    yield made
    made.close()


@pytest.fixture(scope="module")
def bare_kernel() -> Iterator[Kernel]:
    """One kernel for all tests of a module that need no lab."""
    made = Kernel()
    yield made
    made.close()


@pytest.fixture
def kernel(module_kernel: Kernel) -> Iterator[Kernel]:
    """The module's kernel, with the extension loaded anew and no lab; what a test made is gone after it."""
    module_kernel.good("%reload_ext ctlab" if _loaded(module_kernel) else "%load_ext ctlab")
    yield module_kernel
    module_kernel.good("from ctlab import labs as _labs\nfor _lab in _labs.running():\n    _lab.stop()")


def _loaded(kernel: Kernel) -> bool:
    cell = kernel.good("print('container' in get_ipython().magics_manager.magics['line'])")
    return cell.stream().strip() == "True"
