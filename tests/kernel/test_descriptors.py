"""How many descriptors a lab's processes have: what docs/bounds.md says, and what happens where there are no more."""

from __future__ import annotations

import pytest
from kernel_help import open_descriptors, run_owner, wait_until

import ctlab

pytestmark = pytest.mark.kernel

# Begins a script of an owner whose hard limit is its first word.
OWNER = r"""
import os, resource, signal, sys, tempfile, threading
from pathlib import Path
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), hard))
import ctlab
from ctlab.errors import CtlabError, KernelError
from kernel_help import children_of, patient, wait_until
SAYS = ["sh", "-c", "echo line; exec sleep 1000"]

def processes(lab):
    found = {"owner": os.getpid(), "keeper": lab._client.facts["keeper"], "supervisor": lab._client.facts["supervisor"]}
    for pid in children_of(found["supervisor"]):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ctlab ") and title != "ctlab runner":
            found[title.removeprefix("ctlab ")] = pid
    return found

def links(pid):
    found = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except OSError:
            continue
    return found

def formula(lab):
    "How many containers with a program there is room for, as docs/bounds.md has it."
    folders = sum(link.endswith(f"/ctlab-{lab._client.id}") for link in links(lab._client.facts["supervisor"]))
    return (hard - 75 - folders) // 4

def has_room(start):
    try:
        start()
    except KernelError:
        return False
    return True

def fill(start):
    "Until there is no room, also once what a start has open for a moment is closed."
    while wait_until(lambda: has_room(start), 1):
        pass

def refused(call):
    try:
        call()
    except KernelError as error:
        text = str(error)
        assert "\n" not in text and f" of {hard} files are open in the lab's supervisor" in text, text
        assert "the process that owns the lab (ulimit -Hn): remove containers, or raise it" in text, text
    else:
        raise AssertionError("it isn't refused")

def everything_else(lab, some):
    "What goes on where there is no room for another container."
    one, other, *_ = some
    for tty in (False, True):
        assert one.exec(["cat"], stdin="in").stdout == "in"
        assert other.exec(["echo", "out"], tty=tty).stdout.strip() == "out"
    failed = []
    def busy(container):
        try:
            for _ in range(3):
                assert container.exec(["echo", "out"]).stdout == "out\n"
        except BaseException as error:
            failed.append(error)
    # Each has a connection from now on.
    threads = [threading.Thread(target=busy, args=(container,)) for container in some[:8]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert wait_until(lambda: {str(container.logs()) for container in some} == {"line\n"}, 20)
    one.write("/srv/file", "body")
    with tempfile.TemporaryDirectory() as folder:
        assert one.copy_out("/srv/file", folder).read_text() == "body"
    net = lab.network("more")
    net.connect(one)
    net.disconnect(one)
    net.remove()
    assert one.top() and lab.status()["running"] == len(some) and one.inspect()["state"] == "running"
"""

REFUSED = (
    OWNER
    + """
try:
    ctlab.Lab("small")
except KernelError as error:
    text = str(error)
    assert "\\n" not in text and "may have 64 files open" in text and "ulimit -Hn" in text and "raise" in text, text
    print("refused")
print(len(ctlab.labs.running()))
"""
)


def test_a_limit_that_no_lab_can_live_with_is_refused(usable: None) -> None:
    assert run_owner(REFUSED, "64").split() == ["refused", "0"]


FULL = (
    OWNER
    + """
with ctlab.Lab("full") as lab:
    lab.network("wide", subnet="10.90.0.0/20")
    some = [lab.run(SAYS, networks="wide")]
    expected = formula(lab)
    fill(lambda: some.append(lab.run(SAYS, networks="wide")))
    assert abs(len(some) - expected) <= 1, (len(some), expected)
    refused(lambda: lab.run(SAYS, networks="wide"))
    refused(lambda: lab.run(SAYS, networks="wide", count=3))
    assert len(lab.containers) == len(some)
    everything_else(lab, some)
    for name in ("collector", "nursery", "sampler"):
        os.kill(processes(lab)[name], signal.SIGKILL)
        assert wait_until(lambda: any(f"lab's {name} died" in note for note in lab.notes))
    everything_else(lab, some)
    frame = None
    def all_sampled():
        global frame
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler was killed
            frame = lab.stats()
        return set(frame["container"]) == {container.name for container in some}
    assert wait_until(all_sampled, 20), set(frame["container"])
    lacks = [note for note in lab.notes if "sampler may have" in note]
    # Of a container without a cgroup two files are kept open for each process, which is less than it takes elsewhere.
    assert bool(lacks) == (lab._client.facts["cgroup"] != "none"), lab.notes
    assert all(f"may have {hard} files" in note and "ulimit -Hn" in note for note in lacks), lab.notes
    for container in some[:5]:
        container.remove()
    del some[:5]
    for _ in range(3):
        assert wait_until(lambda: has_room(lambda: some.append(lab.run(SAYS, networks="wide")))), len(some)
    everything_else(lab, some)
    assert {container.state for container in lab.containers} == {"running"}
    most = {name: len(links(pid)) for name, pid in processes(lab).items()}
    assert max(most.values()) <= hard, most
    print(len(some), most)
"""
)


@pytest.mark.parametrize("hard", [256, 1024])
def test_as_many_run_as_there_is_room_for_and_all_else_goes_on(usable: None, hard: int) -> None:
    run_owner(FULL, str(hard), timeout=60)


AGAIN = (
    OWNER
    + """
with ctlab.Lab("again") as lab:
    web, idle = lab.run(SAYS, name="web"), lab.run(name="idle")
    fill(lambda: lab.run(SAYS))
    refused(lambda: lab.run(SAYS))
    taken, done = [], {}
    while len(taken) < 12:  # fewer and fewer are left: each thread that calls has one
        for name in ("web", "idle"):
            for how in ("restart", "replace"):
                old = lab[name], lab[name].pid
                try:
                    if how == "restart":
                        lab[name].restart()
                    else:
                        lab.run(SAYS if name == "web" else None, name=name, exists="replace")
                except KernelError as error:
                    assert "of 160 files are open" in str(error), error
                    assert (lab[name], lab[name].pid) == old
                else:
                    done[name, how] = len(taken)
                assert {container.state for container in lab.containers} == {"running"}, (name, how)
        taken.append(lab._client.connection())
    for connection in taken:
        connection.close()
    old = lab["web"], lab["web"].pid  # of several, too, one of which would be replaced
    lab["web"].rename("w1")
    refused(lambda: lab.run(SAYS, name="w{n}", count=9, exists="replace"))
    assert (lab["w1"], lab["w1"].pid) == old
    assert done.keys() >= {("web", "restart"), ("idle", "restart")} and max(done.values()) < 11, done
"""
)


def test_where_there_is_no_room_for_another_what_runs_is_ended_only_for_what_can_start(usable: None) -> None:
    run_owner(AGAIN, "160")


IDLE = (
    OWNER
    + """
with ctlab.Lab("idle") as lab:
    lab.network("wide", subnet="10.90.0.0/20")
    some = [lab.run(networks="wide")]
    expected = formula(lab) * 2
    assert wait_until(lambda: not any("pipe:" in link for link in links(processes(lab)["collector"])))
    fill(lambda: some.append(lab.run(networks="wide")))
    assert abs(len(some) - expected) <= 4, (len(some), expected)
    refused(lambda: lab.run(networks="wide"))
    assert some[0].exec(["echo", "out"]).stdout == "out\\n" and some[-1].restart().state == "running"
"""
)


def test_of_those_that_idle_twice_as_many(usable: None) -> None:
    run_owner(IDLE, "256")


THOUSAND = (
    OWNER
    + """
COUNT = 1000
with ctlab.Lab("large") as lab:
    lab.network("wide", subnet="10.90.0.0/20")
    some = list(lab.run(["sleep", "1000"], count=COUNT, networks="wide"))
    assert len(some) == COUNT
    def all_sampled():
        return len(set(lab.stats(metrics="pids")["container"])) == COUNT
    assert wait_until(all_sampled, 30)
    found = {name: links(pid) for name, pid in processes(lab).items()}
    assert set(found) == {"owner", "keeper", "supervisor", "nursery", "collector", "resolver", "sampler"}
    assert {container.state for container in some} == {"running"}
    assert all(len(of_one) <= hard for of_one in found.values()), {name: len(of_one) for name, of_one in found.items()}
    assert max(len(found[name]) for name in ("owner", "keeper", "resolver")) < 64
    assert some[-1].exec(["getent", "hosts", some[0].name]).stdout.split()[:1] == list(some[0].addresses.values())
    if lab._client.facts["cgroup"] != "none":
        assert [note for note in lab.notes if "sampler may have 4096 files" in note]
"""
)


@pytest.mark.long
def test_a_thousand_containers_under_a_hard_limit_of_4096(usable: None) -> None:
    """Takes 12 s and 1 GB; as an ordinary user in the long form."""
    run_owner(THOUSAND, "4096", timeout=90)


def test_a_lab_whose_counters_were_read_leaves_no_descriptor(usable: None) -> None:
    def once() -> None:
        with ctlab.Lab("brief") as lab:
            lab.run(["true"])
            lab.stats()

    once()
    before = open_descriptors()
    for _ in range(2):
        once()
    assert wait_until(lambda: open_descriptors() <= before), (before, open_descriptors())
