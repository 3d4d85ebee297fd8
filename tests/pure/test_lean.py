"""What slots are clones of stays small: each page is copied and taken down at every start (see `kernel.lean`)."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    "array", "collections", "contextlib", "dataclasses", "enum", "functools", "json", "logging", "re", "signal",
    "socket", "subprocess", "tarfile", "threading", "typing",
}  # fmt: skip


def test_the_seed_imports_nothing_heavy() -> None:
    """In an interpreter as the keeper is started, since the test's own has imported everything."""
    program = "import sys; sys.path[:0] = sys.argv[1:]; import ctlab.runtime.seed; print(*sys.modules)"
    words = [sys.executable, "-I", "-S", "-c", program, *[path for path in sys.path if path]]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert "ctlab.runtime.slot" in loaded and "ctlab.runtime.runner" in loaded
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("ctlab.metrics")} == set()
