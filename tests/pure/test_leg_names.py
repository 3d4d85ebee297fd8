"""What a test says that it uses has a row in the table of capabilities, which the guests' leg prints at its end."""

from __future__ import annotations

import ast
from pathlib import Path

import leg_report

TESTS = Path(__file__).resolve().parents[1]


def test_each_name_has_a_row() -> None:
    used = {
        argument.value
        for path in TESTS.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "uses"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    assert "beside podman" in used
    assert used <= set(leg_report.CAPABILITIES)
