"""Filters on the kernel: what they say is what system calls get, and real programs work below them.

Each child is a fresh interpreter that sets no_new_privs and loads what it is sent, as what starts containers does.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient
from seccomp_help import MARKS, PODMAN, PUBLIC, USUAL, Program

from ctlab.seccomp import docker
from ctlab.seccomp.compile import LATE, MACHINES, program
from ctlab.seccomp.default import PROFILE
from ctlab.seccomp.numbers import numbers
from ctlab.seccomp.profile import ACTION, ALLOW, ERRNO, KILL_PROCESS, Condition, Profile, Rule

pytestmark = pytest.mark.kernel
if os.uname().machine not in MACHINES:
    pytest.skip(f"no filters on {os.uname().machine}", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
MACHINE = os.uname().machine
OWN, OTHER = (architecture for architecture, _ in MACHINES[MACHINE])

LOADER = """
import base64, ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
from ctlab.kernel import seccomp, syscalls
order = json.load(sys.stdin)
if order.get("user"):
    os.setgroups([])
    os.setresgid(*[order["user"]] * 3)
    os.setresuid(*[order["user"]] * 3)
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
for each in order["programs"]:
    seccomp.install(base64.b64decode(each))
libc = ctypes.CDLL(None, use_errno=True)
"""
# Calls as (number, arguments …) -> errno, 0 where one succeeded.
CALLS = """
found = []
for number, *arguments in order["calls"]:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value) for value in arguments))
    found.append(ctypes.get_errno() if result == -1 else 0)
print(json.dumps(found))
"""
# The same through int 0x80, from a page of machine code: push rbx; mov eax, edi; mov ebx, esi; mov r8d, ecx;
# mov ecx, edx; mov edx, r8d; int 0x80; pop rbx; ret. The kernel's answer is negative where it is an errno.
CALLS_32 = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("53 89f8 89f3 4189c8 89d1 4489c2 cd80 5b c3"))
enter = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(json.dumps([max(0, -enter(*(*call, 0, 0, 0)[:4])) for call in order["calls"]]))
"""


def below(*programs: bytes, script: str, **order: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter with these filters on it."""
    order["programs"] = [base64.b64encode(each).decode() for each in programs]
    words = [sys.executable, "-I", "-S", "-c", LOADER + script, str(ROOT)]
    return subprocess.run(
        words, input=json.dumps(order), capture_output=True, text=True, timeout=patient(60), start_new_session=True
    )


def answers(*programs: bytes, calls: list[tuple[int, ...]], script: str = CALLS, user: int = 0) -> list[int]:
    done = below(*programs, script=script, calls=calls, user=user)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


def compiled(part: str = "whole", *more: str, profile: Profile = PROFILE) -> bytes:
    return program(profile, USUAL | set(more), MACHINE, part)


NONSENSE = (0xFFFFFFFF_FFFFFFFF,) * 6  # which no call that were let through would do anything with


def denied(architecture: str, given: bytes) -> dict[str, int]:
    """Call -> errno, for every call of an architecture that a filter denies for those arguments."""
    it = Program(given)
    width = 0xFFFFFFFF if architecture == OTHER else NONSENSE[0]
    said = {
        name: it.verdict(number, MARKS[architecture], [value & width for value in NONSENSE])
        for name, number in numbers(architecture).items()
    }
    return {name: verdict & 0xFFFF for name, verdict in said.items() if verdict & ACTION == ERRNO}


# -- what calls get ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("user", [0, 65534] if os.geteuid() == 0 else [0], ids=str)
def test_every_call_that_is_denied_is_denied_by_the_kernel(user: int) -> None:
    whole = compiled()
    expected = denied(OWN, whole)
    assert len(expected) > 80
    calls = [(numbers(OWN)[name], *NONSENSE) for name in expected]
    assert dict(zip(expected, answers(whole, calls=calls, user=user), strict=True)) == expected
    # In two parts it is the same, whichever comes first.
    for parts in (("early", "late"), ("late", "early")):
        assert answers(*map(compiled, parts), calls=calls, user=user) == list(expected.values())


def test_the_early_part_leaves_to_ctlab_what_it_still_does() -> None:
    expected = denied(OWN, compiled())
    # Without harm: EINVAL, EBADF, EFAULT … of the call itself, or EPERM for who isn't root.
    late = {name: numbers(OWN)[name] for name in LATE if name in numbers(OWN) and name not in ("clone", "sethostname")}
    got = answers(compiled("early"), calls=[(number, *NONSENSE) for number in late.values()])
    assert dict(zip(late, got, strict=True))["unshare"] == errno.EINVAL
    assert dict(zip(late, got, strict=True))["setns"] == errno.EBADF
    early = [name for name in expected if name not in LATE]
    assert answers(compiled("early"), calls=[(numbers(OWN)[name], *NONSENSE) for name in early]) == [
        expected[name] for name in early
    ]


def test_arguments_decide() -> None:
    number = numbers(OWN)
    high = 1 << 32
    calls = {
        (number["socket"], 1, 1, 0): 0,
        (number["socket"], 16, 3, 0): 0,
        (number["socket"], 38, 5, 0): errno.EPERM,
        (number["socket"], 38 | high, 5, 0): errno.EPERM,
        (number["socket"], 40, 1, 0): errno.EPERM,
        (number["socket"], 40 | high, 1, 0): errno.EPERM,
        (number["socket"], 16, 3, 9): errno.EINVAL,
        (number["socket"], 16 | high, 3, 9 | high): errno.EINVAL,
        (number["personality"], 0xFFFFFFFF): 0,
        (number["personality"], 0x0040000): errno.EPERM,
        (number["personality"], 0x0040000 | high): errno.EPERM,
        (number["clone"], 0x10000000 | 17): errno.EPERM,
        (number["clone"], 0x40000000 | high | 17): errno.EPERM,
        (number["clone"], 0x00000100 | 0x00020000, 0): errno.EPERM,
        (number["clone3"], 0, 88): errno.ENOSYS,
        (471, 0): errno.ENOSYS,
        (0x3FFFFFFF, 0): errno.ENOSYS,
    }
    if MACHINE == "x86_64":
        calls |= {(0x40000000 | number["getpid"], 0): errno.ENOSYS, (0x40000000 | 512, 0): errno.ENOSYS}
    assert dict(zip(calls, answers(compiled(), calls=list(calls)), strict=True)) == calls
    assert answers(compiled("whole", "SYS_ADMIN"), calls=[(number["unshare"], *NONSENSE)]) == [errno.EINVAL]


def need_32_bit_calls() -> None:
    """Skip where the kernel has no int 0x80; asked without any filter."""
    if below(script=CALLS_32, calls=[(numbers("i386")["getpid"],)]).returncode == -signal.SIGSEGV:
        pytest.skip("this kernel takes no 32-bit calls (CONFIG_IA32_EMULATION)")


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 is x86's")
def test_32_bit_calls_are_filtered_as_32_bit_calls() -> None:
    need_32_bit_calls()
    number = numbers("i386")
    whole = compiled()
    expected = denied("i386", whole)
    assert len(expected) > 100 and "fork" not in expected
    calls = {(number[name], 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF): answer for name, answer in expected.items()}
    calls |= {
        (number["getpid"],): 0,
        (number["socket"], 1, 1, 0): 0,
        (number["socket"], 38, 5, 0): errno.EPERM,
        (number["socket"], 40, 1, 0): errno.EPERM,
        (number["socketcall"], 1, 0): errno.EPERM,
        (number["socketcall"], 2, 0): errno.EFAULT,
        (number["clone"], 0x10000000, 0, 0): errno.EPERM,
        (number["keyctl"], 0, 0xFFFFFFFD, 0): errno.EPERM,
        (number["personality"], 0x40000, 0, 0): errno.EPERM,
    }
    assert dict(zip(calls, answers(whole, calls=list(calls), script=CALLS_32), strict=True)) == calls
    # A profile that doesn't name the architecture ends who uses it.
    alone = compiled(profile=PROFILE._replace(architectures=frozenset()))
    assert below(alone, script=CALLS_32, calls=[(number["getpid"],)]).returncode == -31


def test_keys_are_out_of_reach() -> None:
    number = numbers(OWN)
    calls = [(number["keyctl"], 0, 0xFFFFFFFD, 0), (number["add_key"], *NONSENSE), (number["request_key"], *NONSENSE)]
    assert answers(compiled(), calls=calls) == [errno.EPERM] * 3


# -- loading ----------------------------------------------------------------------------------------------------------
STATUS = "print(*[line for line in open('/proc/self/status') if line.startswith('Seccomp')], sep='')"


def test_filters_add_up_and_are_counted() -> None:
    before = int(below(script=STATUS).stdout.split("Seccomp_filters:")[1])
    for programs, count in (((), 0), ((compiled(),), 1), ((compiled("early"), compiled("late")), 2)):
        done = below(*programs, script=STATUS)
        assert int(done.stdout.split("Seccomp_filters:")[1]) == before + count, done.stderr
    # The kernel's limit is 32,768 instructions with 4 for each program.
    done = below(*[compiled()] * 200, script=STATUS)
    assert done.returncode == 1 and "OSError: [Errno 12] load the filter" in done.stderr


def test_the_longest_programs_are_taken() -> None:
    """Jumps over more than 255 instructions, and the kernel's check of every one of them."""
    calls = sorted(numbers(OWN), key=lambda name: numbers(OWN)[name])
    rules = tuple(
        Rule((call,), ERRNO | 99, (Condition(1, ">", at << 33 | 7), Condition(3, "!=", at)))
        for at, call in enumerate(calls)
        if at % 2 and call not in ("execve", "exit_group", "mmap", "read", "write", "brk", "munmap")
    )
    long = program(Profile("long", ALLOW, rules, frozenset()), USUAL, MACHINE)
    assert len(long) // 8 > 1200
    hit = next(rule for rule in rules if rule.calls == ("socket",) or rule.calls == ("mount",))
    value, other = hit.conditions[0].value, hit.conditions[1].value
    number = numbers(OWN)[hit.calls[0]]
    calls_made = [
        (number, 0, value + 1, 0, other + 1, 0, 0),
        (number, 0, value, 0, other + 1),
        (number, 0, value + 1, 0, other),
    ]
    got = answers(long, calls=calls_made)
    assert got[0] == 99 and 99 not in got[1:]


def test_what_cannot_be_loaded() -> None:
    for bad, text in ((b"", "0 bytes are no program"), (b"1234567", "7 bytes"), (bytes(8), "EINVAL (Invalid")):
        done = below(bad, script="")
        assert done.returncode == 1 and "OSError: [Errno 22] " in done.stderr and text in done.stderr, done.stderr
    # Without no_new_privs only who has CAP_SYS_ADMIN may.
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
from ctlab.kernel import seccomp, syscalls
syscalls.capset(0, 0, 0)
seccomp.install(seccomp.trial())
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 1 and "[Errno 13] load the filter of system calls" in done.stderr, done.stderr


def test_the_probe_sees_whether_a_filter_answers() -> None:
    done = below(script="seccomp.probe(); print('yes')")
    assert (done.stdout, done.stderr) == ("yes\n", "")
    # Below a filter that hides seccomp(2) the older call does; below one that forbids both, the kernel's word is told.
    for answer in (errno.ENOSYS, errno.EPERM):
        hiding = Profile("hiding", ALLOW, (Rule(("seccomp",), ERRNO | answer),))
        done = below(compiled(profile=hiding), script="seccomp.check(); seccomp.probe(); print('yes')")
        assert (done.stdout, done.stderr) == ("yes\n", "")
    older = Condition(0, "==", 22)  # PR_SET_SECCOMP
    both = (Rule(("seccomp",), ERRNO | errno.EPERM), Rule(("prctl",), ERRNO | errno.EPERM, (older,)))
    forbidding = Profile("forbidding", ALLOW, both)
    done = below(compiled(profile=forbidding), script="seccomp.probe()")
    assert "PermissionError: [Errno 1] Operation not permitted" in done.stderr
    done = below(compiled(profile=forbidding), script="seccomp.check()")
    assert "PermissionError: [Errno 1] load the filter of system calls" in done.stderr
    # ERRNO 0: the call isn't made, and succeeds.
    lying = Profile("lying", ALLOW, (Rule(("seccomp",), ERRNO), Rule(("prctl",), ERRNO, (older,))))
    done = below(compiled(profile=lying), script="seccomp.probe()")
    assert "a filter of system calls is accepted, but nothing is filtered" in done.stderr


def test_loading_needs_nothing_heavy() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import ctlab.kernel.seccomp; print(*sys.modules)"
    words = [sys.executable, "-I", "-S", "-c", script, str(ROOT)]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert {name for name in loaded if name.startswith("ctlab")} == {
        "ctlab", "ctlab.kernel", "ctlab.kernel.seccomp",
    }  # fmt: skip


def test_a_kill_ends_the_whole_process() -> None:
    killing = Profile("killing", ALLOW, (Rule(("sched_yield",), KILL_PROCESS),))
    assert below(compiled(profile=killing), script="os.sched_yield()").returncode == -31


# -- programs ---------------------------------------------------------------------------------------------------------
PROGRAMS = {
    "shell": "echo $(ls / | wc -l) $(id -u) > out; test -s out; (sleep 0.01 & wait); trap 'echo t' USR1; kill -USR1 $$",
    "threads": "%(python)s -c 'import threading as t; s = [t.Thread(target=print) for _ in range(9)]; "
    "[x.start() for x in s]; [x.join() for x in s]'",
    "multiprocessing": "%(python)s pool.py",
    "compiler": "printf '#include <stdio.h>\nint main(void) { return puts(\"x\") < 0; }' > m.c && gcc m.c -o m && ./m",
    "archiver": "mkdir d && echo x > d/f && tar czf d.tgz d && rm -r d && tar xzf d.tgz && test -s d/f && find d",
    "network": "ip link show lo && ip route",
    "debugger": "strace -f -o trace true && grep -q execve trace",
    "javascript": 'node -e \'const w = require("worker_threads"); new w.Worker("1", {eval: true}).on("exit", '
    '() => console.log("done"))\'',
    "java": "java -version",
    "go": "XDG_RUNTIME_DIR=$PWD podman --version",
    "32-bit": "gcc -m32 -static -nostdlib -fno-stack-protector -no-pie small.c -o small && ./small | grep made",
    "database": "sqlite3 x.db 'create table t (a); insert into t values (1); select * from t;' | grep -q 1",
}
POOL = """
import mmap, multiprocessing, socket, subprocess
if __name__ == "__main__":
    for kind in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(kind).Pool(2) as pool:
            assert pool.map(abs, range(-3, 3)) == [3, 2, 1, 0, 1, 2]
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(server.getsockname()).close()
    mmap.mmap(-1, 4096)
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
"""
SMALL = """
static int call(int number, int a, int b, int c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
void _start(void) { call(4, 1, (int)"made\\n", 5); call(1, 0, 0, 0); }
"""
NEEDED = {
    "compiler": "gcc", "network": "ip", "debugger": "strace", "javascript": "node", "java": "java", "go": "podman",
    "32-bit": "gcc", "database": "sqlite3",
}  # fmt: skip


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_work_below_it(name: str, tmp_path: Path) -> None:
    if shutil.which(NEEDED.get(name, "sh")) is None:
        pytest.skip(f"no {NEEDED[name]} here")
    if name == "32-bit":
        if MACHINE != "x86_64":
            pytest.skip("an x86 program")
        need_32_bit_calls()
    works_below(PROFILE, name, tmp_path)


def test_programs_work_below_a_public_profile(tmp_path: Path) -> None:
    if not PUBLIC:
        pytest.skip(f"no public profile here: {PODMAN} (golang-github-containers-common)")
    path = PUBLIC[0]
    works_below(docker.parse(path.read_bytes(), str(path), (6, 18)), "multiprocessing", tmp_path)


def works_below(profile: Profile, name: str, folder: Path) -> None:
    line = PROGRAMS[name] % {"python": sys.executable} if "%(" in PROGRAMS[name] else PROGRAMS[name]
    (folder / "pool.py").write_text(POOL)
    (folder / "small.c").write_text(SMALL)
    script = "os.chdir(order['folder']); os.execvp('sh', ['sh', '-ec', order['line']])"
    parts = [compiled(part, profile=profile) for part in ("early", "late")]
    done = below(*parts, script=script, line=line, folder=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
