"""What differs for a lab in a VM, worked out from its facts: paths, mounts, images, CPUs, and how it is described."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctlab import engines
from ctlab.errors import Unsupported
from ctlab.request import mount

VM = {
    "acceleration": "tcg", "machine": "q35", "kernel_release": "6.12.107-cloud-amd64", "memory_bytes": 64 << 20,
    "cpus": 2, "boot_seconds": {"kernel": 2.04, "python": 1.5, "lab": 2.25},
}  # fmt: skip


def lab_with(facts: dict[str, Any]) -> Any:
    return SimpleNamespace(_client=SimpleNamespace(facts=facts))


NATIVE, IN_VM = lab_with({}), lab_with({"vm": VM})


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that everyone can reach and read."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o755)
    return tmp_path


def test_a_path_is_looked_up_in_the_share_with_its_links_followed_here(shared: Path) -> None:
    (shared / "real").mkdir()
    (shared / "link").symlink_to("/etc")
    (shared / "near").symlink_to("real")
    assert engines.guest_path(IN_VM, str(shared / "link" / "hosts")) == f"{engines.HOST_SHARE}/etc/hosts"
    assert engines.guest_path(IN_VM, str(shared / "near")) == engines.HOST_SHARE + os.path.realpath(shared / "real")
    assert engines.guest_path(NATIVE, str(shared / "near")) == str(shared / "near")


def test_a_read_write_mount_is_refused_with_what_to_write(shared: Path) -> None:
    for words in (f"{shared}:/data", f"{shared}:/data:rw", f"type=bind,source={shared},target=/data"):
        with pytest.raises(Unsupported) as caught:
            engines.check_mounts(IN_VM, [mount(words)])
        assert str(caught.value) == (
            f"mount {shared}:/data: a VM lab shares this machine's files read-only: write {shared}:/data:ro, "
            "or copy with %container cp"
        )
        engines.check_mounts(NATIVE, [mount(words)])


def test_a_read_only_mount_is_fine(shared: Path) -> None:
    (shared / "file").write_text("x")
    (shared / "file").chmod(0o644)
    engines.check_mounts(IN_VM, [mount(f"{shared}:/data:ro"), mount(f"{shared}/file:/file:ro"), mount("/etc:/e:ro")])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only then does a VM run as somebody else")
@pytest.mark.parametrize(("kind", "mode"), [("folder", 0o700), ("folder", 0o744), ("file", 0o600)])
def test_what_nobody_may_not_read_is_refused_when_root_starts_the_vm(shared: Path, kind: str, mode: int) -> None:
    """The kernel is asked as nobody; mode 744 of a folder lets it be listed and not entered."""
    path = shared / "mine"
    path.mkdir() if kind == "folder" else path.write_text("x")
    path.chmod(mode)
    with pytest.raises(Unsupported, match="reads this machine's files as nobody") as caught:
        engines.check_mounts(IN_VM, [mount(f"{path}:/data:ro")])
    assert str(path) in str(caught.value) and "EACCES" in str(caught.value) and "\n" not in str(caught.value)
    if kind == "folder":
        with pytest.raises(Unsupported, match=r"image \./mine: a VM started by root"):
            engines.check_image(IN_VM, "./mine", str(path))
    path.chmod(0o755)
    engines.check_mounts(IN_VM, [mount(f"{path}:/data:ro")])


def test_a_tar_image_takes_a_quarter_of_the_memory_at_most(shared: Path) -> None:
    path = shared / "image.tar"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    engines.check_image(IN_VM, "image.tar", str(path))
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(Unsupported) as caught:
        engines.check_image(IN_VM, "image.tar", str(path))
    assert str(caught.value) == (
        "image image.tar: its 16M don't fit into a quarter of the VM's memory (64M), where it is unpacked: "
        "%lab start --engine vm --vm-memory 128M"
    )
    bigger = lab_with({"vm": VM | {"memory_bytes": 128 << 20}})
    engines.check_image(bigger, "image.tar", str(path))
    engines.check_image(NATIVE, "image.tar", str(path))


def test_cpus_are_the_vms() -> None:
    assert list(engines.cpus(IN_VM)) == [0, 1]


def test_how_a_vm_is_described() -> None:
    told = engines.describe(VM)
    assert told == "QEMU q35, tcg, Linux 6.12.107-cloud-amd64, 64M, 2 CPUs; boot: kernel 2.0 s, python 1.5 s, lab 2.2 s"
    assert engines.describe(VM | {"cpus": 1, "boot_seconds": {}}).endswith(", 64M, 1 CPU")
