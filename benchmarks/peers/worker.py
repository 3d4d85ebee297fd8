"""A side of a comparison runs in a process of its own and answers calls: one JSON line each way.

The process that compares (`Worker`) never starts containers itself, so that all sides are measured the
same way: by a small Python process that only makes the system calls of its own side. Time is always taken
inside that process; the call's own way through the pipe is in no figure.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = "CTLAB_BENCH_OUTSIDE"  # the mount namespace that a worker's own mounts must not be made in


class Missing(Exception):
    """This side can't be measured here; the text says why (not installed, or what the kernel lacks)."""


class SideFailed(Exception):
    """The side was there and broke; the text carries its traceback."""


def require(program: str) -> str:
    """The path of a program on PATH. Raises Missing."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is not installed")
    return path


class Worker:
    """Starts `python -m MODULE` below `prefix` (for example ``unshare -m -n``) and calls its methods.

    Raises Missing from the constructor where the side says so or the prefix isn't allowed here.
    """

    def __init__(self, module: str, *, prefix: Sequence[str] = (), python: str = sys.executable) -> None:
        self.name = module.rsplit(".", 1)[-1]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; close() closes it
        if prefix:
            require(prefix[0])
        self._process = subprocess.Popen(
            [*prefix, python, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **os.environ,
                "LC_ALL": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1",
                OUTSIDE: os.readlink("/proc/self/ns/mnt"),
            },
        )
        self._buffer = b""
        try:
            self.about: dict[str, Any] = self._answer(30.0)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, timeout: float = 60.0, **arguments: Any) -> Any:
        """The method's return value. Raises Missing, SideFailed, TimeoutError (seconds)."""
        assert self._process.stdin is not None
        line = json.dumps({"call": method, "arguments": arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideFailed(f"{self.name} ended early: {self._tail()}") from None
        return self._answer(timeout)

    def _answer(self, timeout: float) -> Any:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError(f"{self.name} gave no answer in {timeout:.0f} s: {self._tail()}")
                data = os.read(self._process.stdout.fileno(), 1 << 20)
                if not data:
                    raise SideFailed(f"{self.name} ended early: {self._tail()}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "missing" in answer:
            raise Missing(answer["missing"])
        if "failed" in answer:
            raise SideFailed(f"{self.name}: {answer['failed']}")
        return answer["value"]

    def _tail(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-1500:].decode(errors="replace").strip() or "it said nothing"

    def close(self) -> None:
        """Ends the process: by end of file, so that it can clean up; by SIGKILL if that takes over 15 s."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def serve(make: Callable[[], Any]) -> None:
    """The worker's end: makes the side, says what it is (`about()`), then answers until end of file.

    File descriptor 1 becomes standard error, so that nothing a peer prints gets into the answers.
    """
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        out.write(json.dumps(fields).encode() + b"\n")

    try:
        side = make()
        about = side.about()
    except Missing as error:
        answer(missing=str(error))
        return
    except Exception:
        answer(failed=traceback.format_exc())
        return
    answer(value=about)
    try:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                value = getattr(side, request["call"])(**request["arguments"])
            except Missing as error:
                answer(missing=str(error))
            except Exception:
                answer(failed=traceback.format_exc())
            else:
                answer(value=value)
    finally:
        close = getattr(side, "close", None)
        if close is not None:
            close()


def timed(
    action: Callable[[], object], count: int, pause: float, after: Callable[[], object] | None = None
) -> list[float]:
    """Seconds of `count` runs of `action`, each after `pause` seconds of idling; `after` runs untimed behind each."""
    seconds = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
        if after is not None:
            after()
    return seconds


def spawner(command: Sequence[str]) -> Callable[..., None]:
    """A function that runs `command` by posix_spawn and waits: the least that starting a program costs.

    Its own arguments are added to the command's. Output goes to /dev/null. Raises SideFailed if the status isn't 0.
    """
    path = require(command[0])
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    start = [path, *command[1:]]

    def run(*more: str) -> None:
        argv = [*start, *more]
        pid = os.posix_spawn(path, argv, os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        if status:
            raise SideFailed(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")

    return run
