"""What differs for a lab in a VM, worked out from its facts: paths, mounts, images, CPUs, and how it is described.

Also what is planned for one (`--explain`), what its handles may not hand out, and what is said of its death.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctlab import cards, engines
from ctlab.errors import BadInput, LabGone, Unsupported
from ctlab.hearing import hear
from ctlab.imagined import PaperLab, explain_network, explain_run
from ctlab.notebook.errors_view import render
from ctlab.notebook.magic_run import PORT_SECONDS, port_seconds
from ctlab.request import mount
from ctlab.runtime import messages
from ctlab.runtime.client import Client
from ctlab.vm.reader import reader

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
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:  # pytest's own
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


def test_a_program_in_an_emulated_vm_may_take_longer_until_it_listens() -> None:
    kvm = lab_with({"vm": VM | {"acceleration": "kvm"}})
    assert port_seconds(NATIVE) == port_seconds(kvm) == PORT_SECONDS < port_seconds(IN_VM)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only then does a VM run as somebody else")
def test_who_is_asked_is_who_the_vms_programs_run_as(shared: Path) -> None:
    path = shared / "mine"
    path.write_text("x")
    path.chmod(0o400)
    ids = reader()
    assert ids is not None
    user, group = ids
    os.chown(path, user, group)
    engines.check_mounts(IN_VM, [mount(f"{path}:/data:ro")])
    os.chown(path, user + 1, group + 1)
    with pytest.raises(Unsupported, match="EACCES"):
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


# -- what is only planned ---------------------------------------------------------------------------------------------
def explain(**keywords: Any) -> list[str]:
    return explain_run(None, ["true"], keywords, VM).lines


def test_a_plan_for_a_vm_is_held_against_the_vms_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    assert "echo 0-1 > /sys/fs/cgroup/c1/cpuset.cpus" in explain(cpuset_cpus="0,1")
    with pytest.raises(BadInput, match="no CPU 2 here, there are 0-1"):
        explain(cpuset_cpus="2")
    assert explain_run(None, ["true"], {"cpuset_cpus": "7"}).lines


def test_a_plan_for_a_vm_has_its_cgroups_and_says_where_it_holds() -> None:
    lines = explain(memory="64M")
    assert lines[0] == f"# Inside the lab's VM, where this machine's files are, read-only, below {engines.HOST_SHARE}."
    assert sum("Inside the lab's VM" in line for line in lines) == 1
    assert "echo 67108864 > /sys/fs/cgroup/c1/memory.max" in lines
    assert "Inside the lab's VM" not in "\n".join(explain_run(None, ["true"], {}).lines)
    network = explain_network(PaperLab(None, VM), "blue").lines
    assert network[0] == lines[0]


def test_a_plan_for_a_vm_mounts_what_the_vm_has(shared: Path) -> None:
    with pytest.raises(Unsupported, match=f"mount {shared}:/data: a VM lab shares .* write {shared}:/data:ro"):
        explain(mounts=[f"{shared}:/data"])
    [line] = [line for line in explain(mounts=[f"{shared}:/data:ro"]) if line.endswith(" data")]
    assert f" {engines.HOST_SHARE}{os.path.realpath(shared)} data" in line
    [line] = [x for x in explain_run(None, ["true"], {"mounts": [f"{shared}:/data"]}).lines if x.endswith(" data")]
    assert engines.HOST_SHARE not in line


def test_a_plan_for_a_vm_takes_images_as_the_vm_has_them(shared: Path) -> None:
    (shared / "tree").mkdir(mode=0o755)
    assert any(f"{engines.HOST_SHARE}{shared}/tree" in line for line in explain(image=str(shared / "tree")))
    with (shared / "image.tar").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(Unsupported, match="a quarter of the VM's memory"):
        explain(image=str(shared / "image.tar"))


# -- what isn't handed out --------------------------------------------------------------------------------------------
def test_a_pid_of_the_guest_is_called_so() -> None:
    assert (cards.pid_label(NATIVE), cards.pid_label(IN_VM)) == ("pid", "pid in the VM")


# -- its death --------------------------------------------------------------------------------------------------------
WHY = "the VM ended; the console's last lines:\n[  1.0] Kernel panic\n[  1.1] ---[ end ]---"


def test_a_death_is_noted_in_one_line() -> None:
    notes: list[str] = []
    lab: Any = SimpleNamespace(name="deep", _note=notes.append, _executions={}, _changed=lambda: None)
    hear(lab, messages.Gone(True, WHY))
    hear(lab, messages.Gone(True, "its supervisor was killed"))
    assert notes == [
        "lab 'deep' died: the VM ended; the console's last lines: [  1.0] Kernel panic | [  1.1] ---[ end ]---",
        "lab 'deep' died: its supervisor was killed",
    ]


def test_a_death_is_an_error_with_the_consoles_lines_below_it() -> None:
    client: Any = SimpleNamespace(_stopping=True, _died=True, _explained=True, why_gone=WHY, name="deep")
    error = Client._gone_error(client)
    assert isinstance(error, LabGone)
    assert str(error) == f"lab 'deep' died: {WHY}"
    assert render(error) == [f"LabGone: lab 'deep' died: {WHY}"]
