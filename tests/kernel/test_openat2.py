"""Paths within a root are found while somebody else on the machine renames folders all the time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctlab.kernel import syscalls

pytestmark = pytest.mark.kernel

SWAP = """
import os, sys
a, b = sys.argv[1:]
os.mkdir(a)
print("ready", flush=True)
while True:
    os.rename(a, b)
    os.rename(b, a)
"""


def test_a_rename_elsewhere_fails_no_look_up(tmp_path: Path) -> None:
    """The kernel says EAGAIN to about one in twenty of these, since ".." might have left the root meanwhile."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/link").symlink_to("../a/../a/../a/../a/b")
    root = os.open(tmp_path / "root", os.O_PATH)
    words = [sys.executable, "-c", SWAP, str(tmp_path / "one"), str(tmp_path / "two")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as swapper:
        try:
            assert swapper.stdout is not None and swapper.stdout.readline() == "ready\n"
            for _ in range(5000):
                os.close(syscalls.openat2(root, "a/link", os.O_PATH, syscalls.RESOLVE_IN_ROOT))
        finally:
            swapper.kill()
            os.close(root)
