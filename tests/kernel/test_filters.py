"""Which filter of system calls the programs of a container run under, by every way to start one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from kernel_help import children_of, need_root, patient, run_owner, titles, uses, wait_until
from seccomp_help import PODMAN

from ctlab.errors import BadInput, KernelError, Unsupported
from ctlab.kernel.capabilities import DEFAULT
from ctlab.seccomp.compile import digest, program
from ctlab.seccomp.default import PROFILE

pytestmark = pytest.mark.kernel

MODE = "grep -h '^Seccomp:' /proc/self/status /proc/1/status | tr -d 'Secomp:\\t '"
# What the kernel answers to keyctl(GET_KEYRING_ID), unshare(CLONE_NEWUSER) and uname.
CALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    result = libc.syscall(*(ctypes.c_long(w) if isinstance(w, int) else w for w in words))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
x86 = os.uname().machine == "x86_64"
print(call(250 if x86 else 219, 0, -3, 0), call(272 if x86 else 97, 0x10000000))
"""


def calls(container: Any) -> str:
    return str(container.exec(["python3", "-c", CALLS]).check().stdout.strip())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A profile in Docker's format that allows everything but mkdir."""
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return path


def test_every_way_to_start_a_program_is_filtered(lab: Any) -> None:
    uses("seccomp")
    for options in ({}, {"init": True}, {"tty": True}, {"user": "0:0"}, {"cap_add": "NET_ADMIN"}, {"image": "system"}):
        ran = lab.run(["sh", "-c", MODE], **options)
        assert ran.wait(patient(10)) == 0
        assert ran.logs().split() == ["2", "2"], options
        ran.start()
        assert ran.wait(patient(10)) == 0 and ran.logs().split() == ["2"] * 4, options
    for container in (lab.run(), *lab.run(["sleep", "60"], count=3, name="b{n}")):
        command = ["sh", "-c", MODE]
        assert container.exec(command).stdout.split() == ["2", "2"]
        assert container.exec(command, tty=True).stdout.split() == ["2", "2"]
        assert container.exec(command, stdin=b"x").stdout.split() == ["2", "2"]
        assert container.script(MODE).stdout.split() == ["2", "2"]
        assert container.exec(["sh", "-c", f'[ "$({MODE})" = "2\n2" ]'], detach=True).wait(patient(10)) == 0


def test_the_default_refuses_keys_and_namespaces(lab: Any) -> None:
    container = lab.run()
    assert calls(container) == "EPERM EPERM"
    found = container.inspect()["seccomp"]
    assert found["profile"] == "default" and found["program"].startswith("sha256:")


def test_none_at_all_is_said_when_it_is_chosen(lab: Any) -> None:
    container = lab.run(security_opt="seccomp=unconfined", name="open")
    assert any("open: seccomp=unconfined" in note for note in lab.notes)
    assert container.exec(["sh", "-c", MODE]).stdout.split() == ["0", "0"]
    keys, namespace = calls(container).split()
    assert namespace == "ok" and keys in ("EACCES", "ENOSYS")  # the lab's keyring gives nobody anything
    assert container.inspect()["seccomp"] == {"profile": "unconfined", "program": ""}
    other = lab.run(name="beside")  # takes a slot of the lab's, and a runner of its own
    assert calls(other) == "EPERM EPERM" and calls(container) == f"{keys} ok"


def test_a_profile_of_ones_own(lab: Any, file: Path) -> None:
    container = lab.run(security_opt=[f"seccomp={file}", "no-new-privileges"], name="own")
    done = container.exec(["mkdir", "/tmp/x"])
    assert done.returncode and "No space left on device" in done.stderr
    assert container.exec(["mkdir", "-p", "/tmp"]).returncode == 0
    assert container.inspect()["seccomp"]["profile"] == str(file)
    ran = lab.run(["sh", "-c", "mkdir /tmp/x; echo $?"], security_opt=f"seccomp={file}")
    assert ran.wait(patient(10)) == 0 and ran.logs().stdout == "1\n"
    file.unlink()  # it was read when it was named
    container.restart()
    assert "No space left" in container.exec(["mkdir", "/tmp/x"]).stderr


def test_that_keys_are_in_reach_is_said_of_every_filter_that_lets_them(lab: Any, tmp_path: Path) -> None:
    def noted(name: str, **options: Any) -> list[str]:
        lab.run(["true"], name=name, **options)
        return [note for note in lab.notes if note.startswith(f"{name}: ") and "your own keys" in note]

    def written(name: str, default: str, action: str, **more: Any) -> str:
        path = tmp_path / name
        rule = {"names": ["keyctl"], "action": f"SCMP_ACT_{action}"} | more
        path.write_text(json.dumps({"defaultAction": f"SCMP_ACT_{default}", "syscalls": [rule]}))
        return f"seccomp={path}"

    some = [{"index": 0, "value": 11, "op": "SCMP_CMP_EQ"}]
    reaching = {
        "none": "seccomp=unconfined",
        "all": written("all", "ALLOW", "ALLOW"),
        "logged": written("logged", "ALLOW", "LOG"),
        "some": written("some", "ALLOW", "ERRNO", args=some),
        **({"podmans": f"seccomp={PODMAN}"} if PODMAN.is_file() else {}),
    }
    for name, word in reaching.items():
        why = f"{name}: {word} lets keyctl through: nothing keeps its programs from your own keys in the kernel"
        assert noted(name, security_opt=word) == [why]
    kept = {"shut": [written("shut", "ALLOW", "ERRNO")], "usual": [], "admin": []}
    for name, words in kept.items():
        assert noted(name, security_opt=words, cap_add=["NET_ADMIN"] if name == "admin" else []) == []


def test_a_profile_that_lets_nothing_run_is_one_error(lab: Any, tmp_path: Path) -> None:
    path = tmp_path / "nothing.json"
    rule = {"names": ["execve", "execveat"], "action": "SCMP_ACT_ERRNO"}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    for command in (["true"], None):
        with pytest.raises(KernelError, match=r"execute the launcher \(which a filter .*\): EPERM") as caught:
            lab.run(command, security_opt=f"seccomp={path}")
        assert "\n" not in str(caught.value)
    path.write_text("{}")
    with pytest.raises(BadInput, match="defaultAction"):
        lab.run(security_opt=f"seccomp={path}")


def refusing(folder: Path, *names: str) -> str:
    """The option for a profile that refuses these calls with EPERM, and no other."""
    rule = {"names": names, "action": "SCMP_ACT_ERRNO"}
    path = folder / f"{names[0]}.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return f"seccomp={path}"


@pytest.mark.parametrize("names", [("close_range",), ("fcntl",), ("fcntl", "ioctl"), ("fcntl", "ioctl", "close")])
def test_a_filter_without_what_the_launcher_closes_by_holds_nobody_up(
    lab: Any, tmp_path: Path, names: tuple[str, ...]
) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("no busybox (Debian: busybox-static): a program with libraries has to close files, too")
    option = refusing(tmp_path, *names)
    sleep = ["busybox", "sleep", "60"]
    for command, init in ((None, False), (sleep, True), (sleep, False)):
        begun = time.monotonic()
        container = lab.run(command, init=init, security_opt=option)
        # Where it can close nothing the program's start is taken for good after 2 s.
        assert time.monotonic() - begun < patient(2 if "close" not in names else 5)
        assert container.state == "running", (command, init, container.returncode, str(container.logs()))
        assert lab.run(["true"], rm=True).wait(patient(5)) == 0
        container.remove()


def test_an_init_that_its_filter_ends_says_why(lab: Any, tmp_path: Path) -> None:
    container = lab.run(name="dumb", security_opt=refusing(tmp_path, "rt_sigtimedwait", "rt_sigtimedwait_time64"))
    assert container.wait(patient(5)) == 70
    said = "dumb: ended with 70, which its init does where its filter of system calls refuses wait4 or rt_sigtimedwait"
    assert wait_until(lambda: said in lab.notes), lab.notes


def test_what_a_capability_opens(lab: Any) -> None:
    """Every row of the profile that a grantable capability opens, compiled: and the lab's own reach stays shut."""
    plain = lab.run(name="plain").inspect()["seccomp"]["program"]
    assert lab.run(cap_add="NET_ADMIN", name="net").inspect()["seccomp"]["program"] == plain
    nice = lab.run(cap_add="SYS_NICE", name="nice")
    assert nice.inspect()["seccomp"]["program"] != plain
    assert calls(nice) == "EPERM EPERM"
    for reaching in ("SYS_ADMIN", "SYS_PTRACE"):
        with pytest.raises(Unsupported, match=f"{reaching}.* user namespace"):
            lab.run(cap_add=reaching)


SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420C  # of ptrace(2)
_WALL = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long


def loaded(pid: int) -> list[bytes]:
    """The filters that the kernel has for a process, the oldest first. OSError: EACCES, EINVAL where it shows none."""

    def ptrace(request: int, number: int = 0, to: Any = None) -> int:
        answer: int = libc.ptrace(request, pid, ctypes.c_void_p(number), to)
        if answer < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return answer

    ptrace(SEIZE)
    try:
        ptrace(INTERRUPT)
        os.waitpid(pid, _WALL)
        found: list[bytes] = []
        if "Seccomp:\t0" in Path(f"/proc/{pid}/status").read_text():
            return found
        while True:
            try:
                room = ctypes.create_string_buffer(8 * ptrace(GET_FILTER, len(found)))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                return found
            ptrace(GET_FILTER, len(found), room)
            found.append(room.raw)
    finally:
        ptrace(DETACH)


def runs(pid: int, expected: list[list[str]]) -> bool:
    return [digest(one) for one in loaded(pid)] in expected


def exec_of(container: Any) -> int:
    """A program that is exec'ed in it, as this machine numbers it."""
    mark = f"60.{time.monotonic_ns()}"
    container.exec(["sleep", mark], detach=True)
    found: list[int] = []

    def there() -> bool:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                    found.append(int(folder.name))
        return bool(found)

    assert wait_until(there)
    return found[0]


def test_the_digest_is_of_the_program_that_runs(lab: Any, file: Path) -> None:
    """By what the kernel says that it has: the filter whole, or the lab's two parts of it (test_seccomp_compile.py)."""
    need_root("to be shown filters (PTRACE_SECCOMP_GET_FILTER)")
    try:
        loaded(lab.run(["sleep", "60"]).pid)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.EIO):  # of PTRACE_SECCOMP_GET_FILTER
            raise
        pytest.skip(f"this kernel shows no filters (CONFIG_CHECKPOINT_RESTORE), or not who has one: {error.strerror}")
    parts = [digest(program(PROFILE, frozenset(DEFAULT), os.uname().machine, part)) for part in ("early", "late")]
    lab_s = digest(program(PROFILE, frozenset(DEFAULT), os.uname().machine))
    seen = set()
    for options in (
        {}, {"init": True}, {"cap_add": "NET_ADMIN"}, {"image": "scratch"}, {"cap_add": "SYS_NICE"},
        {"cap_drop": "ALL"}, {"security_opt": f"seccomp={file}"}, {"security_opt": "seccomp=unconfined"},
    ):  # fmt: skip
        for command in (None, ["sleep", "60"])[: 1 if "image" in options else 2]:
            container = lab.run(command, **options)
            said = container.inspect()["seccomp"]["program"]
            seen.add(said)
            expected = {"": [[]], lab_s: [parts, [lab_s]]}.get(said, [[said]])
            for again in (False, True):
                if again:
                    container.restart(0)
                ways = [container.pid] if "image" in options else [container.pid, exec_of(container)]
                for pid in ways:  # an init of ours may be loading its last one still
                    assert wait_until(functools.partial(runs, pid, expected)), (options, command, again)
    assert len(seen) == 5, "the lab's, that of SYS_NICE, of no capability, the file's, none"


@pytest.mark.long_in_guest
def test_a_filter_that_the_kernel_has_no_room_for_ends_nothing(lab: Any, tmp_path: Path) -> None:
    """What is too large shows when it is compiled, for the capabilities asked for: before the old one is removed."""
    args = [[{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}] for value in range(5000)]
    rules = [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": each} for each in args]
    path = tmp_path / "large.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    old = lab.run(name="web")
    for options in ({}, {"name": "other"}, {"name": "w{n}", "count": 2}):
        with pytest.raises(BadInput, match=r": a filter of \d+ instructions; the kernel takes 4096: fewer") as caught:
            lab.run(**({"name": "web"} | options), exists="replace", security_opt=f"seccomp={path}")
        assert str(caught.value).startswith(f"security_opt='seccomp={path}': a filter of ")
    assert lab.containers.keys() == ["web"] and lab["web"] is old and old.state == "running"


# A process whose machine hides seccomp(2), or has no filters at all: one of its own does that, then it owns a lab.
AROUND = """
import os, sys
from ctlab.kernel import seccomp, syscalls
from ctlab.seccomp.compile import program
from ctlab.seccomp.profile import ALLOW, EINVAL, ENOSYS, Condition, Profile, Rule
rules = [Rule(("seccomp",), ENOSYS)]
if sys.argv[1] == "none":
    rules.append(Rule(("prctl",), EINVAL, (Condition(0, "==", 22),)))  # PR_SET_SECCOMP
if os.geteuid():
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(program(Profile("around", ALLOW, tuple(rules)), frozenset(), os.uname().machine))
import ctlab
mode = ["sh", "-c", "grep ^Seccomp_filters: /proc/self/status | cut -f2"]
with ctlab.Lab("around") as lab:
"""
OLDER_CALL = (
    AROUND
    + """
    ran = lab.run(mode)
    ran.wait()
    print(ran.logs().stdout.strip())
    idle = lab.run()
    for options in ({}, {}, {"tty": True}):
        print(idle.exec(mode, **options).check().stdout.strip())
    print(idle.exec(["python3", "-c", sys.argv[2]]).check().stdout.strip())
    own = lab.run(security_opt=["seccomp=" + sys.argv[3]])
    print(own.exec(["mkdir", "/tmp/x"]).stderr.strip())
print(ctlab.doctor()["seccomp"].ok)
"""
)
NO_CALL = (
    AROUND
    + """
    for options in ({"name": "c"}, {"count": 2}, {"security_opt": "seccomp=" + sys.argv[3]}, {"cap_add": "SYS_NICE"}):
        try:
            lab.run(**options)
        except ctlab.KernelError as error:
            print(error)
    print(len(lab.containers))
    bare = lab.run(name="bare", security_opt="seccomp=unconfined")
    print(*[bare.exec(mode).check().stdout.strip() for _ in range(2)])
report = ctlab.doctor()
print(report["seccomp"].ok, report.usable, report.summary.splitlines()[1])
print(report["seccomp"].remedy)
"""
)


@pytest.mark.long_in_guest
def test_where_only_the_older_call_is_let_through_every_program_is_filtered(file: Path) -> None:
    """By run in two parts, by exec in two, or a profile of one's own whole; the first of the three is around all."""
    uses("seccomp")
    said = run_owner(OLDER_CALL, "older", CALLS, str(file)).splitlines()
    counts, (calls_, own, doctor) = said[:4], said[4:]
    assert len(set(counts)) == 1 and int(counts[0]) >= 3, said
    assert calls_ == "EPERM EPERM" and "No space left on device" in own and doctor == "True", said


@pytest.mark.long_in_guest
def test_where_no_filter_can_be_had_a_start_is_refused_and_the_doctor_says_the_same(file: Path) -> None:
    uses("seccomp")
    *refused, left, bare, doctor, remedy = run_owner(NO_CALL, "none", CALLS, str(file)).splitlines()
    assert len(refused) == 4 and left == "0", refused
    for line in refused:
        assert "load the filter of system calls" in line and line.endswith(": EINVAL (Invalid argument)"), line
        assert "%lab doctor" in line and "--security-opt seccomp=unconfined" in line
    assert refused[0].startswith("container c: ")
    assert len(set(bare.split())) == 1
    assert doctor.startswith("False True a lab can start here, ") and "missing: seccomp" in doctor
    assert "; containers start only with --security-opt seccomp=unconfined; " in doctor
    assert "without it: containers start only with --security-opt seccomp=unconfined" in remedy


@pytest.mark.long_in_guest
def test_a_first_process_that_is_slow_is_waited_for(lab: Any) -> None:
    """Under a filter of its own a report that never comes isn't waited for; what comes before it is."""
    lab.run(security_opt="seccomp=unconfined", network="none")
    for number in range(40):
        there = set(titles(lab))
        with ThreadPoolExecutor() as pool:
            started = pool.submit(lab.run, name=f"slow{number}", security_opt="seccomp=unconfined", network="none")
            stopped: list[int] = []
            while not stopped and not started.done():
                for pid in set(children_of(lab._client.facts["supervisor"])) - there:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        stopped.append(pid)
            # It is that one, and has its orders, if its start takes longer and the supervisor serves others meanwhile.
            caught = stopped and not wait([pool.submit(lab.status)], patient(0.2)).not_done
            caught = caught and not wait([started], patient(0.5)).done
            told = caught and wait([started], 2.5).done  # later than a report is waited for
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            assert not told, told
            container = started.result(patient(10))
            if caught:
                assert container.exec(["echo", "fine"]).stdout == "fine\n"
                return
    pytest.fail("never stopped in time")
