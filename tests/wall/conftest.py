"""The reports of all sides on all legs, made once a session."""

from __future__ import annotations

import shutil

import pytest
import wall_reports
from kernel_help import need_root


@pytest.fixture(scope="session")
def reports(usable: None) -> wall_reports.Reports:
    """What a container reaches in ctlab, podman and bubblewrap, as root, as a user with a range of ids and with one."""
    need_root("to make ordinary users, and a machine of podman's own")
    for program in ("podman", "crun", "bwrap", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} isn't installed (scripts/system-packages.sh test)")
    return wall_reports.collect()
