"""What cells show: a program's output while it runs, and maps and charts that are kept up to date.

A table stays as it was when it was shown. Everything live of a lab (maps, charts) is in `lab.views`; after each cell in
which the lab changed, and before it is stopped, what a saved notebook would hold is brought up to date.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from .. import labs, units

if TYPE_CHECKING:
    from ..lab import Lab

# The result that the present cell's magic has streamed: shown already, so its value isn't shown once more.
_streamed: object = None

LINE_SECONDS = 0.2  # how long a line may be without its end before it is shown so
REDRAWN_SECONDS = 0.5  # the same of a line that is drawn over itself (a bar of progress): a message each time


class CellSink:
    """Shows a program's output in the cell as it comes: stream 1 to stdout, 2 to stderr, `limit` bytes at most.

    By whole lines, since a saved notebook keeps each piece as an output of its own; what has no end of line (a prompt,
    a bar of progress) is shown a moment later, and of what was drawn over itself meanwhile only what is left of it.
    """

    def __init__(self, limit: int, *, quiet: bool = False) -> None:
        self._left = 0 if quiet else limit
        self._quiet = quiet
        self._more = 0  # bytes that were not shown
        self._lock = threading.RLock()
        self._begun: dict[int, str] = {}  # of at most one stream: a line without its end
        self._last = 0  # the stream that was written to last
        self._due = 0.0  # when that line is to be shown as it is
        self._later: threading.Timer | None = None

    def __call__(self, stream: int, text: str) -> None:
        """Show one piece."""
        with self._lock:
            data = text.encode("utf-8", "replace")
            shown = text if len(data) <= self._left else data[: self._left].decode("utf-8", "ignore")
            self._more += max(0, len(data) - self._left)
            self._left = max(0, self._left - len(data))
            if not shown:
                return
            if stream not in self._begun:
                self.flush()  # what the other stream began came first
            earlier = self._begun.pop(stream, "")
            whole, end, begun = (earlier + shown).rpartition("\n")
            self._put(stream, whole + end)
            if begun:
                if end or not earlier:
                    self._due = time.monotonic() + (REDRAWN_SECONDS if "\r" in begun else LINE_SECONDS)
                self._begun[stream] = begun
                self._wait()

    def flush(self) -> None:
        """Show what has no end of line yet."""
        with self._lock:
            for stream, text in self._begun.items():
                self._put(stream, text)
            self._begun.clear()

    def _wait(self) -> None:
        if self._later is None:
            self._later = threading.Timer(max(0.0, self._due - time.monotonic()), self._late)
            self._later.daemon = True
            self._later.start()

    def _late(self) -> None:
        with self._lock:
            self._later = None
            if self._begun and time.monotonic() < self._due:  # another line than the one it was started for
                self._wait()
            else:
                self.flush()

    def _put(self, stream: int, text: str) -> None:
        if not text:
            return
        target, other = (sys.stderr, sys.stdout) if stream == 2 else (sys.stdout, sys.stderr)
        if stream != self._last:  # a stream that isn't flushed is sent later than what was written after it
            other.flush()
        self._last = stream
        target.write("\n".join(map(collapsed, text.split("\n"))))
        target.flush()

    @property
    def whole(self) -> bool:
        """Whether all that the program wrote has been shown."""
        return not self._quiet and not self._more

    def finish(self, where: str, dropped_bytes: int = 0) -> None:
        """Say how much more there was, and where it is; and what came too fast to be kept at all."""
        self.flush()
        if self._more and not self._quiet:
            print(f"\n[{units.format_size(self._more)} more isn't shown here; {where}]")
        if dropped_bytes:
            print(f"\n[about {units.format_size(dropped_bytes)} came too fast to be kept]")


def collapsed(line: str) -> str:
    """A line that carriage returns draw over itself, as it looks in the end; what was shown of it before is drawn over.

    A line with escape sequences isn't counted out: what its last piece leaves of those before isn't known here.
    """
    body = line.rstrip("\r")
    first, *pieces = body.split("\r")
    if not pieces:
        return line
    look = ""
    for piece in filter(None, pieces):
        look = piece if "\x1b" in piece + look else piece + look[len(piece) :]
    return f"{first}\r{look}{line[len(body) :]}"


_seen: weakref.WeakKeyDictionary[Lab, int] = weakref.WeakKeyDictionary()


def streamed(result: object) -> None:
    """The magic of a statement has streamed this result: the cell doesn't show its value as well."""
    global _streamed
    _streamed = result


def show_completed(result: object) -> None:
    """Show nothing of a result that was streamed into this very cell; any other has its plain text."""
    if result is not _streamed:
        raise NotImplementedError


def value_of_streamed(shell: Any, result: object) -> object:
    """What a magic returns that has streamed its result; a terminal would write an empty ``Out[8]:`` for any value."""
    streamed(result)
    if not hasattr(shell, "pt_app"):
        return result
    shell.displayhook.update_user_ns(result)  # `_` has it all the same
    return None


def has_kernel() -> bool:
    """Whether outputs can be replaced: in a terminal they can't."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def after_cell(*_: object) -> None:
    """After each cell: bring the outputs of every lab that changed up to date."""
    streamed(None)
    if "ctlab.lab" not in sys.modules or not has_kernel():
        return
    for lab in labs.running():
        if _seen.get(lab) != lab.changes:
            _seen[lab] = lab.changes
            refresh(lab)


def refresh(lab: Lab) -> None:
    """Bring everything that shows a lab up to date."""
    for view in list(lab.views):
        try:
            if hasattr(view, "refresh"):
                view.refresh()
            view.refresh_stored()
        except Exception as error:  # an output that can't be brought up to date mustn't spoil the cell
            lab._note_failure("an output stays as it was", error)


def make_static() -> None:
    """Make every live output of every lab static."""
    for lab in labs.running():
        lab.close_views()
