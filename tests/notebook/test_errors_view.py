"""How errors look: one line, and where it came from in the person's own code."""

from __future__ import annotations

from typing import Any

import pytest

from ctlab.errors import NotFound
from ctlab.notebook.errors_view import line_typed, typed


@pytest.mark.parametrize(
    ("transformed", "shown"),
    [
        ("get_ipython().run_line_magic('container', 'ps -a')\n", "%container ps -a"),
        ("x = get_ipython().run_line_magic('container', 'run -- echo \"a b\"')", '%container run -- echo "a b"'),
        ("get_ipython().run_cell_magic('container', 'exec web', 'ls\\n')\n", "%%container exec web"),
        ("    lab.run('x')", "lab.run('x')"),
        ("for n in range(3):", "for n in range(3):"),
        ("print(get_ipython())", "print(get_ipython())"),
    ],
)
def test_a_line_as_it_was_typed(transformed: str, shown: str) -> None:
    assert typed(transformed) == shown


@pytest.mark.parametrize("raw", [
    "x = 1\n%container ps\ny = 2",
    "\n\nx = 1\n%container ps\ny = 2",
    "%container exec web -- \\\n  ls \\\n  -l\nz = 3",
    "a = (1 +\\\n 2)\n%network ls \\\n -q\nlast = 1",
    "\n%%container exec web\nls\npwd",
])  # fmt: skip
def test_lines_are_counted_as_typed(raw: str) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    transformed = TransformerManager().transform_cell(raw).splitlines(keepends=True)
    typed_lines = raw.splitlines()
    for number, text in enumerate(transformed, 1):
        found = typed_lines[line_typed(transformed, typed_lines, number) - 1]
        first = typed(text).split("=")[0].split()[:2]
        assert all(word.rstrip("\\") in found for word in first), (text, found)


def test_outside_ipython_it_is_an_ordinary_error() -> None:
    with pytest.raises(NotFound) as caught:
        raise NotFound("no container 'x'")
    assert caught.value._render_traceback_()[0] == "NotFound: no container 'x'"


@pytest.mark.kernel
def test_real_error_outputs(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    cell = kernel.run("def go():\n    %container exec nobody -- ls\n")
    assert cell.error is None
    number = kernel.good("print(len(In))").stream().strip()
    cell = kernel.run("x = 1\n\n\ngo()")
    assert cell.error is not None
    assert (cell.error["ename"], cell.error["evalue"]) == ("NotFound", "no container 'nobody'; there are: web")
    assert cell.error["traceback"] == [
        "NotFound: no container 'nobody'; there are: web",
        f"at Cell In[{int(number)}], line 4: go()",
        f"at Cell In[{int(number) - 2}], line 2: %container exec nobody -- ls",
    ]
    assert cell.reply["status"] == "error" and cell.reply["ename"] == "NotFound"
    assert cell.stream() == "" and cell.stream("stderr") == ""


@pytest.mark.kernel
def test_the_whole_traceback_on_demand(kernel: Any) -> None:
    kernel.good("%config CtlabMagics.traceback = True")
    cell = kernel.run("%container exec nobody -- ls")
    kernel.good("%config CtlabMagics.traceback = False")
    assert cell.error is not None and any("magics.py" in line for line in cell.error["traceback"])


@pytest.mark.kernel
def test_errors_of_the_python_interface(kernel: Any) -> None:
    kernel.good("import ctlab\nlab = ctlab.Lab('py')")
    cell = kernel.run("lab.run('true')\nlab['nobody']")
    assert cell.error is not None and len(cell.error["traceback"]) == 2
    assert cell.error["traceback"][1].endswith("line 2: lab['nobody']")
