"""In which order the tests run, and which of them one of several processes does together."""

from __future__ import annotations

from typing import Any

# What takes long is begun first, so that in the end all processes have done.
FOLDERS = ("browser", "kernel/test_as_user.py", "faults", "vm", "wall", "kernel", "notebook", "pure")


def rank(nodeid: str) -> int:
    """The place of a test: its folder's."""
    path = nodeid.removeprefix("tests/")
    return next((number for number, folder in enumerate(FOLDERS) if path.startswith(folder)), len(FOLDERS))


def unit(nodeid: str) -> str:
    """What is done by one process: a file, since its tests share a lab.

    All browsers' tests are one, since they share a server and a browser; each ordinary user's is one by itself.
    """
    path, _, name = nodeid.partition("::")
    if path.startswith("tests/browser/"):
        return "tests/browser"
    return nodeid if name.startswith("test_the_kernel_tests_pass[") else path


def scheduler(config: Any, log: Any) -> Any:
    """xdist's scheduler of files, with these units."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        """A unit at a time, in the order of its first test."""

        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    return Scheduling(config, log)
