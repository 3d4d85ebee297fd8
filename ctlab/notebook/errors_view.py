"""How an error of ctlab looks in a notebook: the message, and where in the person's own code it came from.

IPython asks an exception for `_render_traceback_`; the class name becomes the output's ``ename``. The frames of
ctlab and IPython say nothing to whoever typed a wrong name, so they are left out, unless
``%config CtlabMagics.traceback = True``.
"""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
from typing import Any

MOST_PLACES = 4
KEY = "_ctlab_extension"  # the shell's attribute that holds what was loaded


def render(error: BaseException) -> list[str]:
    """The lines that IPython shows."""
    shell = _shell()
    if _whole_traceback(shell):
        lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
        return lines
    places = [place for frame, line in traceback.walk_tb(error.__traceback__) if (place := _place(shell, frame, line))]
    if len(places) > MOST_PLACES:
        places = [*places[: MOST_PLACES - 1], places[-1]]
    return [f"{type(error).__name__}: {error}", *places]


def _shell() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def _whole_traceback(shell: Any) -> bool:
    """Whether ``%config CtlabMagics.traceback`` asks for everything."""
    loaded = getattr(shell, KEY, None)
    return bool(loaded is not None and loaded[0].traceback)


def _place(shell: Any, frame: Any, line: int) -> str:
    """``at Cell In[5], line 12: <source>`` of a frame of a cell; "" for any other."""
    name = frame.f_code.co_filename
    label = shell.compile.format_code_name(name) if shell is not None else None
    if label is None:
        return ""
    transformed = linecache.getlines(name)
    raw = _raw_cell(shell, label[1])
    number = line_typed(transformed, raw.splitlines(), line) if raw else line
    source = raw.splitlines()[number - 1] if raw and number <= len(raw.splitlines()) else ""
    source = source.strip()
    if not source or source.endswith("\\"):
        source = typed(linecache.getline(name, line))
    return f"at {' '.join(label)}, line {number}: {source}"


def _raw_cell(shell: Any, label: str) -> str:
    """The cell as it was typed; "" if the history doesn't have it."""
    try:
        found: str = shell.history_manager.input_hist_raw[int(label[3:-1])]
        return found
    except (IndexError, ValueError, AttributeError):
        return ""


def line_typed(transformed: list[str], raw: list[str], line: int) -> int:
    r"""The line of the cell as typed that became line `line` of what IPython made of it (both from 1).

    IPython drops blank lines at the start, joins lines that end in `\` where a magic begins, and makes a cell
    magic one line.
    """
    at = 0
    while at < len(raw) and not raw[at].strip():
        at += 1
    for text in transformed[: line - 1]:
        joined = "get_ipython()" in text
        while joined and at < len(raw) and raw[at].endswith("\\"):
            at += 1
        at += 1
    return min(at + 1, max(1, len(raw)))


def typed(line: str) -> str:
    """`%container ps` of ``get_ipython().run_line_magic('container', 'ps')``; any other line as it is."""
    text = line.strip()
    try:
        [statement] = ast.parse(text).body
    except (SyntaxError, ValueError):
        return text
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return text
    marks = {"run_line_magic": "%", "run_cell_magic": "%%"}
    if call.func.attr not in marks or not all(isinstance(word, ast.Constant) for word in call.args[:2]):
        return text
    words = [str(word.value) for word in call.args[:2] if isinstance(word, ast.Constant)]
    return marks[call.func.attr] + " ".join(words).strip()
