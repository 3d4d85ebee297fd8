"""Bad input about labs themselves: each file has a shell of its own, in which no lab runs at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_bad_input import FILES, KEPT, check

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("path", [path for path in FILES if path not in KEPT], ids=lambda path: path.stem)
def test_bad_input(
    path: Path, shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    check(shell, path, tmp_path, capsys)
