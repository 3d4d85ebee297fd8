"""The tests of the virtual machine: marked `vm`; skipped, with what is missing, where one can't be started."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder that takes a machine is marked (`machine_programs` is what needs one)."""
    for item in items:
        if item.path.is_relative_to(HERE) and "machine_programs" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def machine_programs() -> None:
    """The kernel and the initramfs are prepared, QEMU and virtiofsd are there."""
    from ctlab.errors import CtlabError
    from ctlab.vm import programs
    from ctlab.vm.prepare import prepare

    try:
        programs.find()
    except CtlabError as error:
        pytest.skip(str(error))
    prepare()
