"""A container that floods what it can reach leaves the notebook, the other containers and the lab at work.

Each flood is bounded in number and time. Those of memory and of processes run below a cgroup that also holds the
notebook (see `bounded`): what stops them is the subject, and must not be the machine's end if it fails.
"""

from __future__ import annotations

import io
import os
import re
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from as_user import ordinary_user
from bounded import run_bounded
from kernel_help import ROOT, need_controller, patient, run_owner, wait_until
from keyring_help import KEYS

import ctlab
from ctlab.errors import CtlabError

pytestmark = pytest.mark.kernel
STORAGE = "32M"
CALM_SECONDS = 2.0  # for each thing that somebody else asks for while the flood goes on


@pytest.fixture(scope="module")
def _kept(usable: None) -> Iterator[ctlab.Lab]:
    with ctlab.Lab(f"floods-{os.getpid()}", storage=STORAGE) as made:
        yield made


@pytest.fixture
def flooded(_kept: ctlab.Lab) -> Iterator[ctlab.Lab]:
    """A lab with little storage and one container that does its work; every test floods it from another."""
    _kept.run(["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done"], name="calm")
    yield _kept
    for container in list(_kept.containers):
        if not container._gone:
            container.remove()


def at_work(lab: ctlab.Lab, *, starts: bool = True) -> None:
    """Others go on: the container that works, programs in it, its logs, copies, the lab's answers; new starts."""
    calm = lab["calm"]
    lines = len(str(calm.logs()).splitlines())

    def within(what: str, done: Any) -> None:
        begun = time.monotonic()
        assert done(), what
        assert time.monotonic() - begun < patient(CALM_SECONDS), what

    within("exec", lambda: calm.exec(["cat", "/etc/hostname"]).stdout == "calm\n")
    within("script", lambda: calm.script("echo a | cat").stdout == "a\n")
    with tempfile.TemporaryDirectory() as folder:
        within("copy", lambda: calm.copy_out("/etc/hostname", folder).exists())
    within("status", lambda: lab.status()["running"] >= 1)
    within("top", lambda: calm.top()[0]["pid"] == 1)
    within("its own work", lambda: wait_until(lambda: len(str(calm.logs()).splitlines()) > lines))
    if starts:
        within("start", lambda: lab.run(["true"], rm=False, name="late").wait(patient(CALM_SECONDS)) == 0)
        within("remove", lambda: lab["late"].remove() is None)


# -- processes --------------------------------------------------------------------------------------------------------
# Threads count as processes do, and 2,048 of them cost next to nothing.
THREADS = """
import _thread, sys, time
_thread.stack_size(32768)
hold = _thread.allocate_lock()
hold.acquire()
made = 1
try:
    while made < int(sys.argv[1]):
        _thread.start_new_thread(hold.acquire, ())
        made += 1
except RuntimeError:
    pass
print(made, flush=True)
time.sleep(60)
"""
FLOOD_OF_PROCESSES = """
import sys
sys.path.insert(0, {here!r})
import ctlab
from test_floods import THREADS, at_work
from kernel_help import wait_until, patient
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done"], name="calm")
    by = lab._client.facts["pids_by"]
    flood = lab.run(["python3", "-c", THREADS, "2600"], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10)), flood.logs()
    reached = int(str(flood.logs()))
    if by == "cgroup":
        at_work(lab)
        assert reached == 2048, reached
    elif by == "rlimit":  # it counts all that the lab's root has
        assert 1900 < reached <= 2048, reached
        assert flood.exec(["cat", "/etc/hostname"]).stdout == "flood\\n"
        assert lab["calm"].exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
        flood.kill()
        at_work(lab)
    lifted = lab.run(["python3", "-c", THREADS, "2200"], name="lifted", pids_limit="none")
    flood.remove()
    assert wait_until(lambda: str(lifted.logs()).strip(), patient(10))
    assert int(str(lifted.logs())) == 2200
    print(by, reached)
"""


def test_processes_by_default(usable: None) -> None:
    """It stops at 2,048. `--pids-limit none` lifts that."""
    script = FLOOD_OF_PROCESSES.format(here=str(Path(__file__).parent))
    if ctlab_pids_by() == "cgroup":
        assert run_bounded(script, memory_bytes=1 << 30, pids=4500).split() == ["cgroup", "2048"]
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        if hard != resource.RLIM_INFINITY and hard < 6000:
            pytest.skip("this user may not have 6,000 processes")
        bound = f"import resource\nresource.setrlimit(resource.RLIMIT_NPROC, ({hard}, {hard}))\n"
        assert run_owner(bound + script).split()[0] == ctlab_pids_by()


FLOOD_OF_A_USER_WITH_FEW = """
import resource, subprocess, sys
sys.path.insert(0, {here!r})
resource.setrlimit(resource.RLIMIT_NPROC, (1200, 1200))
import ctlab
from test_floods import THREADS
from kernel_help import wait_until, patient
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["sleep", "60"], name="calm")
    flood = lab.run(["python3", "-c", THREADS, "2600"], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10)), flood.logs()
    assert 500 < int(str(flood.logs())) <= 900, flood.logs()
    assert lab["calm"].exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
    assert lab.run(["true"]).wait(patient(5)) == 0
    assert flood.exec(["cat", "/etc/hostname"]).stdout == "flood\\n"
    assert subprocess.run(["true"]).returncode == 0
"""


def test_processes_of_an_owner_who_may_have_few(usable: None) -> None:
    """A quarter is left to the notebook, the lab and what is exec'ed."""
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: the kernel lets root have as many processes as it wants")
    run_owner(FLOOD_OF_A_USER_WITH_FEW.format(here=str(Path(__file__).parent)))


def ctlab_pids_by() -> str:
    """What bounds the processes of a container here."""
    with ctlab.Lab("asked") as lab:
        by: str = lab._client.facts["pids_by"]
    return by


BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        os.write(2, b"refused\\n")
        time.sleep(0.02)
"""


def test_processes_of_children(flooded: ctlab.Lab) -> None:
    """A fork bomb, with a small limit: who forks in the others isn't hindered."""
    need_controller(flooded, "pids")
    flood = flooded.run(["python3", "-c", BOMB], pids_limit=40)
    assert wait_until(lambda: "refused" in flood.logs().stderr, patient(5))
    at_work(flooded)
    assert flood.state == "running"


# -- memory -----------------------------------------------------------------------------------------------------------
FLOOD_OF_MEMORY = """
import ctlab
from kernel_help import patient
held = bytearray(b"x") * (120 << 20)  # more than a container can take: by size alone the notebook would be chosen
with ctlab.Lab("flooded", storage="16M") as lab:
    calm = lab.run(["sleep", "60"], name="calm")
    flood = lab.run(["python3", "-c", "b = bytearray(b'x') * (400 << 20)"], name="flood")
    assert flood.wait(patient(20)) == 137, flood.returncode
    assert calm.exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
    assert lab.run(["true"]).wait(patient(5)) == 0
    print(calm.state, len(held) >> 20, not lab.gone)
"""


def test_memory_takes_the_container_and_not_the_notebook(usable: None) -> None:
    """Below a parent that has 300 MB for all: the kernel kills what floods, though the notebook is as large."""
    assert run_bounded(FLOOD_OF_MEMORY, memory_bytes=300 << 20, pids=2000).split() == ["running", "120", "True"]


def test_who_is_killed_first(lab: Any) -> None:
    """Whatever is in a container stands before its owner; what is the lab's own stands where its owner does."""
    own = int(Path("/proc/self/oom_score_adj").read_text())
    container = lab.run(["sleep", "60"])
    helpers = [lab._client.facts[name] for name in ("keeper", "supervisor")]
    inside = container.exec(["cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"]).stdout.split()
    assert [int(word) for word in inside] == [min(1000, own + 500)] * 2
    outside = [Path(f"/proc/{pid}") for pid in os.listdir("/proc") if pid.isdigit()]
    for process in outside:
        try:
            title = (process / "cmdline").read_bytes()
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if title.startswith(b"ctlab ") and b"runner" not in title and int(parent) in helpers:
            helpers.append(int(process.name))
    assert len(helpers) > 4  # resolver, sampler, collector, nursery
    assert {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in helpers} == {own}


# -- what is written --------------------------------------------------------------------------------------------------
FULL = r"the lab's storage is full \(ENOSPC; (32M|32768 files)\): .*--storage"
WRITE = "dd if=/dev/zero of=/flood bs=1M 2>&1 | grep -c 'No space left'"
FILES = """
import errno, os
os.mkdir("/flood")
try:
    for number in range(100_000):
        os.close(os.open(f"/flood/{number}", os.O_CREAT | os.O_WRONLY))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("command", [["sh", "-c", WRITE], ["python3", "-c", FILES]], ids=["bytes", "files"])
def test_the_storage(flooded: ctlab.Lab, command: list[str]) -> None:
    """A full one is ENOSPC for who writes; the others go on, or hear in one line what is full and what to do."""
    flood = flooded.run(["sleep", "60"], name="flood")
    before = flooded.status()["storage"]
    assert before["bytes"] == 32 << 20 and before["inodes"] == 32768
    assert flood.exec(command).stdout.strip() in ("1", "ENOSPC")
    now = flooded.status()["storage"]
    assert now["used_bytes"] + now["free_bytes"] == now["bytes"]
    assert now["used_inodes"] + now["free_inodes"] == now["inodes"]
    assert min(now["free_bytes"] / now["bytes"], now["free_inodes"] / now["inodes"]) < 0.01
    at_work(flooded, starts=False)
    failures = 0
    for number in range(20):  # some find a place that was made before
        try:
            flooded.run(["sleep", "60"], name=f"late{number}")
        except CtlabError as error:
            assert ctlab_line(error), error
            failures += 1
    assert failures
    if "dd" in command[-1]:
        with pytest.raises(CtlabError, match=FULL):
            flooded["calm"].write("/srv/file", "x" * 100_000)
    flood.remove()
    for number in range(3):  # at once: there is room when it says that it is gone
        assert flooded.run(["true"], name=f"after{number}").wait(patient(5)) == 0
    assert wait_until(lambda: all(flooded.status()["storage"][f"free_{kind}"] > 30_000 for kind in ("bytes", "inodes")))
    at_work(flooded)


def ctlab_line(error: CtlabError) -> bool:
    return re.search(FULL, str(error)) is not None and "\n" not in str(error)


def test_an_image_that_does_not_fit(flooded: ctlab.Lab, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "large.tar", "w") as archive:
        member = tarfile.TarInfo("large")
        member.size = 40 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    free = flooded.status()["storage"]["free_bytes"]
    with pytest.raises(CtlabError, match=FULL):
        flooded.run(image=str(tmp_path / "large.tar"))
    assert flooded.status()["storage"]["free_bytes"] > free - (1 << 20)  # what was begun is gone
    flooded.run(["sleep", "60"], name="second")
    at_work(flooded)


@pytest.mark.parametrize(("place", "most", "files"), [("/dev/shm", 64 << 20, 16384), ("/dev", 64 << 10, 1024)])
def test_the_small_file_systems(flooded: ctlab.Lab, place: str, most: int, files: int) -> None:
    """They have bounds of their own, bytes and files, and are nobody else's."""
    flood = flooded.run(["sleep", "60"], name="flood")
    assert flood.exec(["python3", "-c", FILES.replace("/flood", f"{place}/flood")]).stdout == "ENOSPC\n"
    size, inodes = map(int, flood.exec(["stat", "-fc", "%b %c", place]).stdout.split())
    assert (size * os.sysconf("SC_PAGE_SIZE"), inodes) == (most, files)
    at_work(flooded)


def test_logs(flooded: ctlab.Lab) -> None:
    flood = flooded.run(["yes", "flood"], name="flood")
    assert wait_until(lambda: flood.logs(tail=1).dropped_bytes > 0, patient(10))
    at_work(flooded)
    assert flooded["calm"].logs().dropped_bytes == 0
    costs = flooded.status()["processes"]["collector"]
    assert costs["resident_bytes"] < 64 << 20


# -- networks ---------------------------------------------------------------------------------------------------------
QUERIES = """
import os, socket, time
query = os.urandom(2) + bytes.fromhex("0100000100000000000005666c6f6f640000010001")
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("begun", flush=True)
end = time.monotonic() + 60  # it is killed before
while time.monotonic() < end:
    for _ in range(100):
        try:
            sock.sendto(query, (%r, 53))
        except OSError:
            pass
"""


def test_dns(flooded: ctlab.Lab) -> None:
    """Who shares the flooded network has its names again once it is over; another network's are there all the time."""
    flooded.network("other")
    one = flooded.run(["sleep", "60"], name="one", networks="other")
    flooded.run(["sleep", "60"], name="two", networks="other")
    gateway = flooded.networks["bridge"].gateways[0].partition("/")[0]
    flooded.run(["sleep", "60"], name="same")
    flood = flooded.run(["python3", "-c", QUERIES % gateway], name="flood")
    assert wait_until(lambda: flood.logs() == "begun\n", 10)
    begun = time.monotonic()
    assert one.exec(["getent", "hosts", "two"]).stdout.endswith("two\n")
    assert time.monotonic() - begun < patient(CALM_SECONDS)
    at_work(flooded)
    assert flood.state == "running", "it went on all the while"
    flood.kill()
    flood.wait(patient(10))
    begun = time.monotonic()
    assert flooded["calm"].exec(["getent", "hosts", "same"]).stdout.endswith("same\n")
    assert flooded["calm"].exec(["getent", "hosts", "flood"]).returncode == 2, "it has ended"
    assert time.monotonic() - begun < patient(CALM_SECONDS)
    one.remove()
    flooded["two"].remove()
    flooded.networks["other"].remove()


SOCKETS = """
import errno, socket, time
held = []
try:
    while len(held) < 5000:
        for family, kind in ((1, 1), (2, 1), (2, 2), (10, 2), (16, 3)):
            held.append(socket.socket(family, kind))
except OSError as error:
    print(errno.errorcode[error.errno])
print(len(held), flush=True)
time.sleep(60)
"""


def test_sockets(flooded: ctlab.Lab) -> None:
    """As many as a process may have open files, here at most 5,000."""
    flood = flooded.run(["python3", "-c", SOCKETS], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10))
    at_work(flooded)


IN_FLIGHT = r"""
import errno, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
import ctlab
FLOOD = '''
import array, errno, socket, time
many = array.array("i", [open("/dev/null").fileno()] * 250)
kept, sent = [], 0
first, second = socket.socketpair()
while sent < 20_000:
    try:
        first.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)], socket.MSG_DONTWAIT)
        sent += 250
    except BlockingIOError:
        kept += [first, second]
        first, second = socket.socketpair()
    except OSError as error:
        print(errno.errorcode[error.errno], sent, flush=True)
        break
time.sleep(60)
'''
with ctlab.Lab("in-flight") as lab:
    calm, flood = lab.run(name="calm"), lab.run(["python3", "-c", FLOOD], name="flood")
    while not str(flood.logs()):
        pass
    print(str(flood.logs()).strip())
    for tty in (False, True):
        print(calm.exec(["echo", "calm"], tty=tty).stdout.strip())
    new = lab.run(["echo", "new"])
    new.wait(20)
    print(str(new.logs()).strip(), lab["flood"].state, resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_descriptors_in_flight(usable: None) -> None:
    """The kernel counts those of a user together, and stops who may have fewer open: containers before the lab."""
    stopped, *others = run_owner(IN_FLIGHT).splitlines()
    assert stopped.split()[0] == "ETOOMANYREFS" and int(stopped.split()[1]) > 3000
    assert others == ["calm", "calm", "new running (1024, 4096)"]


TERMINALS = """
import errno, os, time
held = []
try:
    while len(held) < 600:
        held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error:
    print(errno.errorcode[error.errno], len(held), flush=True)
time.sleep(60)
"""


def test_terminals(flooded: ctlab.Lab) -> None:
    """The kernel counts those of all containers of the machine together; each has a share."""
    flood = flooded.run(["python3", "-c", TERMINALS], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip() == "ENOSPC 256"), flood.logs()
    assert flooded["calm"].exec(["echo", "there"], tty=True).stdout.strip() == "there"
    at_work(flooded)


DEEP = """
import os, sys
os.mkdir("/flood")
os.chdir("/flood")
for number in range(int(sys.argv[1])):
    os.mkdir("d")
    os.chdir("d")
with open("large", "wb") as file:
    file.write(bytes(4 << 20))
"""


@pytest.mark.long_in_guest  # which may have so many files open that it is no test of them
def test_folders_as_deep_as_they_can_be(flooded: ctlab.Lab) -> None:
    """Whoever removes them has neither a descriptor nor a path for each level."""
    before = flooded.status()["storage"]
    depth = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 100, 25_000)
    flood = flooded.run(["sleep", "60"], name="flood")
    flood.exec(["python3", "-c", DEEP, str(depth)]).check()
    flood.remove()
    at_work(flooded)
    for kind, room in (("used_inodes", 2000), ("used_bytes", 2 << 20)):
        assert wait_until(lambda kind=kind, room=room: flooded.status()["storage"][kind] < before[kind] + room, 60)
    assert not [note for note in flooded.notes if "nursery" in note]


LINKS, ROUTES = 200, 2000


def test_netlink_objects(flooded: ctlab.Lab) -> None:
    """Interfaces, routes and neighbours (permanent ones: others are counted for the whole machine) of its own."""
    lines = []
    for number in range(LINKS):
        lines.append(f"link add v{number} type veth peer name w{number}")
    for number in range(ROUTES):
        lines.append(f"route add blackhole 172.{16 + number // 65536}.{number // 256 % 256}.{number % 256}/32")
        lines.append(f"neigh add 10.99.{number // 256}.{number % 256} lladdr 02:00:00:00:00:01 nud permanent dev lo")
    flood = flooded.run(["sleep", "60"], name="flood", cap_add="NET_ADMIN")
    process = flood.exec(["ip", "-batch", "-"], stdin="\n".join(lines), detach=True)
    at_work(flooded)
    assert process.wait(patient(20)) == 0
    assert len(flood.routes()) > ROUTES
    at_work(flooded)
    begun = time.monotonic()
    flood.remove()
    at_work(flooded)
    assert time.monotonic() - begun < patient(10)


# -- keys -------------------------------------------------------------------------------------------------------------
FLOOD_OF_KEYS = (
    KEYS
    + """
for ring in (-3, -4, -2):  # of the session, of the user, of the process
    made, answer = 0, settled(lambda: add("first", "x", ring), 20 if ring == -4 else 1)
    while made < 1000 and answer > 0:
        made += 1
        answer = settled(lambda: add(f"flood{made}", "x", ring))
    print(ring, made, errno.errorcode.get(-answer, "no end"), flush=True)
time.sleep(600)
"""
)


def test_keys(flooded: ctlab.Lab) -> None:
    """By default the filter lets nobody make one."""
    flood = flooded.run(["python3", "-c", FLOOD_OF_KEYS], name="flood")
    assert wait_until(lambda: len(flood.logs().splitlines()) == 3, 10)
    assert flood.logs().splitlines() == ["-3 0 EPERM", "-4 0 EPERM", "-2 0 EPERM"]
    at_work(flooded)
    for _ in range(8):  # slots that were not there before
        assert flooded.run(["true"], rm=True).wait(patient(5)) == 0


# The owner's side: prints what the flood printed, and what its owner then can do, a line each.
OWNER_OF_KEYS = (
    KEYS
    + """
import ctlab
from kernel_help import patient, wait_until
from test_floods import at_work
if (joined := settled(join, 20)) in (-errno.ENOSYS, -errno.EPERM):
    print("no keys"); raise SystemExit
assert joined > 0, errno.errorcode[-joined]
serial = add("mine", "kept")
def new(name):
    made = add(name, "x")
    return "made" if made > 0 else errno.errorcode[-made]
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done"], name="calm")
    flood = lab.run(["python3", "-c", sys.argv[1]], name="flood", security_opt="seccomp=unconfined")
    assert wait_until(lambda: len(flood.logs().splitlines()) == 3, 30), flood.logs()
    print(flood.logs(), end="")
    at_work(lab)
    for _ in range(8):
        assert lab.run(["true"], rm=True).wait(patient(5)) == 0
    assert flood.state == "running"
    print(read(serial), new("beside"))
    try:
        ctlab.Lab("second").stop()
        print("starts")
    except ctlab.CtlabError as error:
        print(error)
    flood.remove()
assert wait_until(lambda: new("after") == "made", 20), "with the lab the keys of its users are gone"
print(read(serial))
"""
)


def _of_keys(said: str, *, shared: bool) -> None:
    if "no keys" in said:
        pytest.skip("this kernel has no keys (CONFIG_KEYS), or a filter forbids them here")
    session, of_user, of_process, own, second, after = said.splitlines()
    most = int(Path("/proc/sys/kernel/keys/maxkeys").read_text())
    assert session == "-3 0 EACCES", said  # the lab's, which nobody may use
    words = of_user.split() + of_process.split()
    assert (words[0], *words[2:4], words[5]) == ("-4", "EDQUOT", "-2", "EDQUOT"), said
    assert 0 < int(words[1]) + int(words[4]) <= most, said
    assert own == ("kept EDQUOT" if shared else "kept made"), said
    assert ("EDQUOT" in second and "/proc/key-users" in second) if shared else second == "starts", said
    assert after == "kept"


def test_keys_without_a_filter() -> None:
    """The kernel's quota of a user id ends it: in root's lab that of nobody else."""
    script = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{OWNER_OF_KEYS}"
    _of_keys(run_owner(script, FLOOD_OF_KEYS), shared=os.geteuid() != 0)


@pytest.mark.long_in_guest
@pytest.mark.user
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user")
@pytest.mark.parametrize("ids", [True, False])
def test_keys_without_a_filter_of_an_ordinary_user(ids: bool) -> None:
    """It is the user's own quota: what was there stays, and nothing new can be made until the lab has ended."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    with ordinary_user(ids=ids, cgroups=False) as user:
        done = user.run([sys.executable, "-B", "-c", OWNER_OF_KEYS, FLOOD_OF_KEYS], env={"PYTHONPATH": path})
        assert done.returncode == 0, done.stdout
        _of_keys(done.stdout, shared=True)
