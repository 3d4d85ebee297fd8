"""What one of several processes does together, and what comes first."""

from __future__ import annotations

import scheduling


def test_units_are_files_but_for_browsers_and_users() -> None:
    assert scheduling.unit("tests/kernel/test_exec.py::test_a[b::c]") == "tests/kernel/test_exec.py"
    assert scheduling.unit("tests/browser/test_chart.py::test_a") == scheduling.unit(
        "tests/browser/test_map.py::test_b"
    )
    users = {scheduling.unit(f"tests/kernel/test_as_user.py::test_the_kernel_tests_pass[{who}]") for who in "abc"}
    assert len(users) == 3 and "tests/kernel/test_as_user.py" not in users


def test_what_takes_long_comes_first_and_files_stay_together() -> None:
    paths = ["kernel/test_exec.py", "pure/test_words.py", "browser/test_chart.py", "kernel/test_as_user.py"]
    nodeids = [f"tests/{path}::test_{name}" for name in "ab" for path in paths]
    in_order = sorted(nodeids, key=scheduling.rank)
    assert [nodeid.split("/")[-1] for nodeid in in_order] == [
        f"{file}::test_{name}"
        for file in ("test_chart.py", "test_as_user.py", "test_exec.py", "test_words.py") for name in "ab"
    ]  # fmt: skip
