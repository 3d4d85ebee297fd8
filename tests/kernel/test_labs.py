"""Labs as wholes: start, stop, two at once, handles that outlive them, quotas that are used up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import children, open_descriptors, patient, run_owner, wait_until

import ctlab
from ctlab.errors import BadInput, CtlabError, LabGone, NameInUse, NotFound, Unsupported
from ctlab.runtime import prune

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("usable")]
ROOT = Path(ctlab.__file__).parents[1]


def python(script: str, *before: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python of its own, with this ctlab."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def test_start_stop_and_nothing_left(runtime_base: Path) -> None:
    lab = ctlab.Lab("one")
    facts = lab._client.facts
    container = lab.run(["sleep", "60"])
    pids = [facts["keeper"], facts["supervisor"], container.pid]
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    begun = time.monotonic()
    lab.stop()
    assert time.monotonic() - begun < patient(2)
    lab.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(os.path.isdir(path) for path in facts["cgroup_paths"])
    assert not os.path.exists(facts["runtime_folder"])
    assert repr(lab) == "<Lab one: stopped>"


@pytest.mark.long_in_guest
def test_a_start_that_is_interrupted_twice_leaves_nothing(runtime_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second interrupt comes while what was begun is waited for."""
    from ctlab.runtime import client

    descriptors, below = open_descriptors(), children()
    left, real = [KeyboardInterrupt, KeyboardInterrupt], client.readable

    def interrupted(seconds: float, descriptor: int) -> bool:
        if left:
            raise left.pop()
        return real(seconds, descriptor)

    monkeypatch.setattr(client, "readable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ctlab.Lab("twice")
    assert not left
    assert wait_until(lambda: open_descriptors() <= descriptors and children() <= below)
    with ctlab.Lab("twice") as lab:
        assert lab.run(["true"]).wait(patient(10)) == 0


def test_held_handles_say_that_the_lab_is_gone() -> None:
    with ctlab.Lab("held") as lab:
        network = lab.network("blue")
        running, ended = lab.run(["sleep", "60"], name="r"), lab.run(["true"], name="e")
        ended.wait(patient(5))
    assert (running.state, ended.state, running.pid) == ("lost", "exited", None)
    assert running.name == "r" and running.addresses and ended.returncode == 0
    for action in (
        lambda: running.exec(["true"]), lambda: running.logs(), lambda: running.stop(), lambda: running.remove(),
        lambda: running.pause(), lambda: ended.start(), lambda: lab.run(["true"]), lambda: lab.network("green"),
        lambda: network.connect("r"), lambda: network.remove(), lambda: running.update(memory="1g"),
        lambda: running.wait(1), lambda: running.copy_out("/etc/hosts", "/tmp"), lambda: running.write("/x", "y"),
    ):  # fmt: skip
        with pytest.raises(LabGone, match="held"):
            action()
    assert ended.wait(patient(1)) == 0


def test_a_lab_that_dies_is_noticed_by_whoever_waits() -> None:
    with ctlab.Lab("dies") as lab:
        container = lab.run(["sleep", "60"])
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                container.wait()
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        os.kill(lab._client.facts["keeper"], 9)
        thread.join(10)
        assert not thread.is_alive() and isinstance(caught[0], LabGone)
        assert wait_until(lambda: lab.gone)
        assert container.state == "lost" and repr(lab) == "<Lab dies: died>"
        with pytest.raises(LabGone):
            lab.run(["true"])
        with pytest.raises(LabGone, match=r"^container c1: lab 'dies' died"):
            container.inspect()
    ctlab.Lab("after").stop()  # the next start clears what a dead keeper has left


@pytest.mark.long_in_guest
def test_one_name_in_one_process_and_in_two() -> None:
    with ctlab.Lab("same") as lab:
        lab.network("blue", subnet="10.60.0.0/24")
        mine = lab.run(name="web", networks=["blue"])
        with pytest.raises(NameInUse, match="lab 'SAME' runs already"):
            ctlab.Lab("SAME")
        script = """
import ctlab
with ctlab.Lab("same") as lab:
    assert len(lab.containers) == 0
    lab.network("blue", subnet="10.60.0.0/24")
    only = lab.run(name="web", networks=["blue"], ip="10.60.0.2")
    other = lab.run(name="other", networks=["blue"])
    print(other.exec(["getent", "hosts", "web"]).stdout.split()[0], len(only.exec(["ip", "neigh"]).stdout) // 500)
    print(lab._client.id, *lab._client.facts["cgroup_paths"])
"""
        done = python(script)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "10.60.0.2 0"
        other_id, *folders = lines[1].split()
        assert other_id != lab._client.id and not any(os.path.isdir(folder) for folder in folders)
        assert [c.name for c in lab.containers] == ["web"] and mine.exec(["true"]).returncode == 0
        assert mine.exec(["getent", "hosts", "other"]).returncode == 2


def test_containers_are_asked_for_by_name(fresh_lab: Any) -> None:
    lab = fresh_lab
    web = lab.run(name="web")
    lab.network("blue")
    assert lab["WEB"] is web and lab[web] is web and lab[web.id] is web
    assert "web" in lab and web in lab and "blue" not in lab and 0 not in lab
    for wrong, message in (
        ("wep", "no container 'wep'; did you mean 'web'?"),
        ("blue", "no container 'blue': 'blue' is a network, lab.networks['blue']"),
    ):
        with pytest.raises(NotFound) as caught:
            lab[wrong]
        assert str(caught.value) == message
    with pytest.raises(BadInput, match=r"^lab\[0\]: a container's name is a text, .*lab\.containers\[0\]$"):
        lab[0]
    with pytest.raises(TypeError, match="not iterable"):
        list(lab)
    web.remove()
    assert web not in lab


@pytest.mark.long_in_guest
def test_the_current_lab() -> None:
    with pytest.raises(NotFound, match="no lab runs here"):
        ctlab.current()
    one, two = ctlab.Lab("one"), ctlab.Lab("two")
    assert ctlab.current() is two
    with one:
        assert ctlab.current() is one
    assert one.gone and ctlab.current() is two
    two.stop()


@pytest.mark.long_in_guest
def test_a_process_that_ends_without_stopping_leaves_nothing(runtime_base: Path) -> None:
    script = """
import ctlab, os
lab = ctlab.Lab("left")
lab.run(["sleep", "60"], count=3, name="w{n}")
print(lab._client.facts["keeper"], lab._client.facts["supervisor"], *lab._client.facts["cgroup_paths"])
"""
    for ending in ("", "import sys; sys.stdout.flush(); os._exit(3)"):
        done = python(script + ending)
        keeper, supervisor, *folders = done.stdout.split()
        assert wait_until(lambda: not os.path.exists(f"/proc/{supervisor}")), ending  # noqa: B023 - called at once
        assert wait_until(lambda: not any(map(os.path.isdir, folders))), ending  # noqa: B023 - called at once
        assert wait_until(lambda: not os.path.isdir(runtime_base) or os.listdir(runtime_base) == []), ending
        assert keeper.isdigit()


def test_a_forked_child_does_not_stop_its_parents_lab(fresh_lab: Any) -> None:
    container = fresh_lab.run(["sleep", "60"])
    pid = os.fork()
    if pid == 0:
        import atexit

        atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(pid, 0)
    assert container.exec(["true"]).returncode == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"name": "ü"}, BadInput, "lab name 'ü' has 'ü' in it"),
        ({"name": "x" * 64}, BadInput, "longer than 63"),
        ({"engine": "nativ"}, BadInput, "did you mean 'native'"),
        ({"interval": 0.001}, BadInput, "from 10 ms to 60 s"),
        ({"uplink": True}, Unsupported, "stay inside it"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[CtlabError], message: str) -> None:
    with pytest.raises(kind, match=message):
        ctlab.Lab(**options)


# Enters a user namespace with every id of this one mapped and goes on there as its root.
WITHIN = """
import ctlab, os, sys
from ctlab.kernel import syscalls
ready, go, child = os.pipe(), os.pipe(), os.fork()
if child:
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file: file.write("0 0 4294967295")
    os.write(go[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
syscalls.unshare(syscalls.CLONE_NEWUSER)
os.write(ready[1], b"x")
os.read(go[0], 1)
"""
NAMESPACE_QUOTA = (
    WITHIN
    + """
kind, number = sys.argv[1], sys.argv[2]
def limit(value):
    with open(f"/proc/sys/user/max_{kind}_namespaces", "w") as file: file.write(str(value))
with ctlab.Lab("quota") as lab:
    first = lab.run(["sleep", "60"])
    limit(number)
    made, said = [], None
    for n in range(30):
        try:
            made.append(lab.run(["sleep", "60"]))
        except ctlab.CtlabError as error:
            said = error
            break
    assert said is not None and "\\n" not in str(said), said
    print(type(said).__name__, said)
    assert first.exec(["true"]).returncode == 0
    assert len(lab.containers) == len(made) + 1, lab.containers
    assert [c.state for c in lab.containers] == ["running"] * (len(made) + 1)
    for n in range(0 if kind == "mnt" else 3):  # the kernel gives what has ended back by and by
        made.pop(0).remove()
        made.append(lab.run(["sleep", "60"]))
    limit(10000)
    for container in made:
        container.remove()
    assert lab.run(["true"]).wait(5) == 0
"""
)


@pytest.mark.long_in_guest
@pytest.mark.parametrize("kind", ["net", "mnt", "pid"])
def test_a_namespace_quota_that_is_used_up_is_named(kind: str) -> None:
    """The quota is written in a user namespace of the test's own: the machine's is not touched."""
    before = Path(f"/proc/sys/user/max_{kind}_namespaces").read_text()
    if os.geteuid() != 0:
        pytest.skip("needs root, to map every id into the user namespace that the quota is for")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", NAMESPACE_QUOTA, kind, "12"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patient(50))
    assert Path(f"/proc/sys/user/max_{kind}_namespaces").read_text() == before
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("KernelError container c") and "ENOSPC" in done.stdout, done.stdout
    assert "quota" in done.stdout


def test_a_quota_that_leaves_no_image_system_is_named() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to map every id into the user namespace that the quota is for")
    script = """
with open("/proc/sys/user/max_mnt_namespaces", "w") as file: file.write(sys.argv[1])
with ctlab.Lab("quota") as lab:
    try: lab.run(["true"])
    except ctlab.KernelError as error: print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for number in range(2, 6):  # how many a lab without a container needs is the kernel's affair
        command = [sys.executable, "-c", WITHIN + script, str(number)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patient(30))
        if "the lab can't start" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    # Of the copy of the system, or where that has just found room, of the container.
    assert "ENOSPC" in done.stdout and "a quota is used up: /proc/sys/user/max_" in done.stdout


def test_no_user_namespaces_at_all_is_said_with_a_remedy() -> None:
    script = """
import ctlab, sys
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
try:
    ctlab.Lab("none")
except ctlab.Unsupported as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["unshare", "-Ur", sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patient(30))
    assert done.returncode == 0, done.stderr
    assert "user-namespace: ENOSPC" in done.stdout and "max_user_namespaces" in done.stdout


def test_a_cgroup_quota_that_is_used_up_is_named_and_leaves_nothing(fresh_lab: Any) -> None:
    paths = fresh_lab._client.facts["cgroup_paths"]
    unified = next((path for path in paths if os.path.exists(f"{path}/cgroup.max.descendants")), None)
    if unified is None:
        pytest.skip("no version 2 folder, which alone has a quota of descendants")
    first = fresh_lab.run(["sleep", "60"])
    Path(f"{unified}/cgroup.max.descendants").write_text("8")
    made = []
    with pytest.raises(CtlabError, match=r"EAGAIN|quota") as caught:
        for _ in range(20):
            made.append(fresh_lab.run(["sleep", "60"]))
    assert "\n" not in str(caught.value)
    assert len(fresh_lab.containers) == len(made) + 1 and first.exec(["true"]).returncode == 0
    Path(f"{unified}/cgroup.max.descendants").write_text("max")
    assert fresh_lab.run(["true"]).wait(patient(5)) == 0


def test_what_a_lab_costs(fresh_lab: Any) -> None:
    found = fresh_lab.status()
    assert found["name"] == fresh_lab.name and found["containers"] == 0
    assert found["processes"]


@pytest.mark.long_in_guest
def test_twenty_starts_and_stops_leak_no_descriptor() -> None:
    ctlab.Lab("first").stop()
    before = open_descriptors()
    for n in range(5):
        with ctlab.Lab(f"l{n}") as lab:
            lab.run(["true"]).wait(patient(5))
    assert wait_until(lambda: open_descriptors() <= before)
    assert wait_until(lambda: not any("ctlab-events" in t.name for t in threading.enumerate()))


@pytest.mark.long_in_guest
def test_what_a_lab_has_left_outside_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Any:
        raise PermissionError(errno.EACCES, "")

    again = "; the next start of a lab tries again, or: python -m ctlab prune"
    for clear, why in ((lambda _: False, "it is still busy"), (refused, "EACCES (Permission denied)")):
        monkeypatch.setattr(prune, "clear", clear)
        lab = ctlab.Lab("left")
        lab.stop()
        assert lab.notes == [f"lab left ({lab._client.id}): what it has left outside isn't removed: {why}{again}"]
    monkeypatch.undo()
    monkeypatch.setattr(prune, "prune", refused)
    with ctlab.Lab("next") as lab:
        assert lab.notes == ["what earlier labs may have left can't be looked through: EACCES (Permission denied)"]


@pytest.mark.long_in_guest
def test_a_lab_that_fails_to_stop_at_the_end_is_named_and_the_others_stop() -> None:
    said = run_owner("""
import ctlab

first, second = ctlab.Lab("first"), ctlab.Lab("second")
stop = first.stop

def fails():
    stop()
    raise RuntimeError("its own")

first.stop = fails
""")
    assert said == "lab 'first' wasn't stopped as it should be: RuntimeError: its own (<string>:9)\n"
