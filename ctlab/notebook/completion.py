"""Completion."""
from __future__ import annotations
from typing import Any
def matcher(shell: Any) -> Any:
    def m(context: Any) -> Any:
        return {"completions": [], "suppress": False}
    return m
