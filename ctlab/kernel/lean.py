"""What the lean modules use in place of the library: each page of memory here is paid for at every start.

A container's first process is a clone of the nursery and becomes the program by `exec`, which takes all the
interpreter's pages down while somebody waits: about 0.4 us a page, and as much again for the clone. So what the
nursery, the slots and the runners are made of imports nothing but `os`, `ctypes` and small modules written in C.
`contextlib`, `signal`, `socket`, `json`, `re` and `typing` cost 0.5 to 1.1 MB each. `tests/pure/test_lean.py` holds
the list.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what `signal` wraps in enumerations

__all__ = ["signal", "suppress"]


class suppress:
    """contextlib.suppress, without what comes along with contextlib."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)
