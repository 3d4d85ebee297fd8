"""The image `system` behaves like a system: what is meant to be changed in one can be, and is the container's own.

Of this machine it has what the world may read of /etc, and the folders of /var. Nothing of it can be changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from as_user import ordinary_user
from container_help import said
from kernel_help import need_ids, need_root, patient, run_owner

import ctlab
from ctlab.plan.rootfs import OWN_FILES, PASSWORD_FILES

pytestmark = pytest.mark.kernel
ETC = Path("/etc")
OWN = {*(f"/etc/{name}" for name in (*OWN_FILES, *PASSWORD_FILES)), "/var/run", "/var/lock", "/var/tmp"}


def sh(container: Any, script: str, **keywords: Any) -> str:
    """What a script writes, which must succeed."""
    text: str = container.exec(["sh", "-ec", script], **keywords).check().stdout
    return text


def listing(top: str) -> dict[str, str]:
    """Path → kind, and what of it must be the same in a container, for what the world may see below `top`."""
    found = {}
    folders = [top]
    for folder in folders:
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # a machine is at work
                status = entry.stat(follow_symlinks=False)
                mode = stat.S_IMODE(status.st_mode)
                if entry.path in OWN:
                    continue
                if entry.is_symlink():
                    found[entry.path] = f"l {os.readlink(entry.path)}"
                elif entry.is_dir():
                    found[entry.path] = f"d {mode:o} {status.st_uid}:{status.st_gid}"
                    if mode & 0o005 == 0o005 and entry.path.count("/") <= 6:
                        folders.append(entry.path)
                elif entry.is_file() and mode & 0o004 and top == "/etc":
                    content = hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
                    found[entry.path] = f"f {mode & 0o777:o} {status.st_uid}:{status.st_gid} {content}"
    return found


LOOK = r"""
cd /
find etc var -type l -printf '/%p l %l\n'
find etc var -type d -printf '/%p d %m %U:%G\n'
find etc var -type f -printf '/%p\n' | while read -r path; do
  echo "$path f $(stat -c '%a %u:%g' "$path") $(sha256sum < "$path" | cut -d' ' -f1)"; done
"""


def machine() -> tuple[dict[str, str], int]:
    """What is to be in a lab's copy now, and when a name in /etc was last made or removed."""
    return listing("/etc") | listing("/var"), ETC.stat().st_mtime_ns


def test_it_has_what_the_world_may_read_and_nothing_else() -> None:
    """Each name, content, mode and owner; root's labs no more than anybody's."""
    # A lab copies once, as it is founded; and other tests make users, at any moment: it is tried in a quiet one.
    for _ in range(6):
        before = machine()
        with ctlab.Lab("readable") as lab:
            found = sh(lab.run(), LOOK)
            single = lab._client.facts["single_id"]
        after = machine()
        if after == before:
            break
    seen = {}
    for line in found.splitlines():
        path, _, rest = line.partition(" ")
        if path not in OWN and path not in ("/etc", "/var"):
            seen[path] = rest
    same = {path: kind for path, kind in before[0].items() if after[0].get(path) == kind and " " not in path}
    assert len(same) > 100
    if single:  # with one id there is one owner
        same = {path: _of_root(kind) for path, kind in same.items()}
    assert {path: seen.get(path) for path in same} == same
    assert {path for path in seen if path not in before[0] and path not in after[0]} == set()


def _of_root(kind: str) -> str:
    words = kind.split(" ")
    return kind if words[0] == "l" else " ".join([*words[:2], "0:0", *words[3:]])


def first_words(path: Path) -> list[str]:
    return [line.partition(":")[0] for line in path.read_text().splitlines()]


def test_its_password_files_have_every_password_locked(lab: Any) -> None:
    container = lab.run()
    # But for users that other tests make meanwhile.
    made = re.compile("ct(lab|note|demo|fault)")
    names = [name for name in first_words(ETC / "passwd") if not made.match(name)]
    shadow = [line.split(":") for line in sh(container, "cat /etc/shadow").splitlines() if not made.match(line)]
    assert [line[0] for line in shadow] == names and {line[1] for line in shadow} == {"*"}
    groups = [name for name in first_words(ETC / "group") if not made.match(name)]
    gshadow = [line.split(":") for line in sh(container, "cat /etc/gshadow").splitlines() if not made.match(line)]
    assert [line[0] for line in gshadow] == groups and {line[1] for line in gshadow} == {"*"}
    assert sh(container, "stat -c %a /etc/shadow /etc/gshadow") == "640\n640\n"
    if not lab._client.facts["single_id"]:
        done = container.exec(["cat", "/etc/shadow"], user="nobody")
        assert (done.returncode, done.stdout) == (1, "")


CHANGES = """
echo 'spool 4711/tcp' >> /etc/services
sed -i 's/^ssh\\b/esh/' /etc/services
chmod 600 /etc/services
mkdir /etc/new.d; echo x > /etc/new.d/file
rm -r /etc/init.d
mv /etc/profile /etc/profile.old
ln -sf /dev/null /etc/alternatives/link
mkdir -p /var/lib/new/body; echo x > /var/log/file
"""


def test_what_it_has_can_be_changed_in_place(lab: Any) -> None:
    before = (ETC / "services").read_text()
    assert "\nssh" in before and (ETC / "init.d").is_dir() and (ETC / "profile").is_file()
    first, second = lab.run(name="first"), lab.run(name="second")
    sh(first, CHANGES)
    text = sh(first, "cat /etc/services")
    assert text.endswith("spool 4711/tcp\n") and "\nesh" in text and "\nssh" not in text
    assert sh(first, "stat -c %a /etc/services; cat /etc/new.d/file /var/log/file") == "600\nx\nx\n"
    for gone in ("/etc/init.d", "/etc/profile"):
        assert first.exec(["test", "-e", gone]).returncode == 1
    # It is the container's alone: the one beside it, those that come later and this machine have it as it was.
    for other in (second, lab.run(name="third")):
        assert sh(other, "cat /etc/services; ls /var/log | grep -c file || :") == before + "0\n"
        assert other.exec(["test", "-d", "/etc/init.d", "-a", "-f", "/etc/profile"]).returncode == 0
        assert other.exec(["ls", "/etc/new.d"]).returncode != 0
    assert (ETC / "services").read_text() == before and not (ETC / "new.d").exists()
    first.restart()
    assert sh(first, "stat -c %a /etc/services; cat /etc/new.d/file") == "600\nx\n", "a restart keeps it"
    assert first.exec(["test", "-e", "/etc/init.d"]).returncode == 1


def test_a_read_only_one_stays_as_it_is(lab: Any) -> None:
    container = lab.run(read_only=True)
    for script in ("echo x >> /etc/services", "mkdir /var/lib/x", "touch /x", "rm /etc/profile"):
        done = container.exec(["sh", "-c", script])
        assert done.returncode != 0 and "Read-only file system" in done.stderr, script


def test_mounts_lie_on_it(lab: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("mounted\n")
    mounts = [f"{tmp_path}/file:/etc/services:ro", f"{tmp_path}:/etc/new/folder:ro", f"{tmp_path}:/var/lib/mounted:ro"]
    container = lab.run(mounts=mounts)
    text = sh(container, "cat /etc/services /etc/new/folder/file /var/lib/mounted/file; cat /etc/hostname")
    assert text == "mounted\n" * 3 + f"{container.name}\n"


def test_the_copy_itself_is_out_of_reach(lab: Any) -> None:
    """It is under all containers, so none may change it, whatever it may do."""
    container = lab.run(security_opt=["seccomp=unconfined"], cap_add=["NET_ADMIN"])
    assert container.exec(["ls", "/system"]).returncode != 0
    before = sh(container, "cat /etc/services")
    attempts = (
        "mount -t overlay -o lowerdir=/system,userxattr overlay /mnt",
        "mount -t tmpfs tmpfs /mnt",
        "mount -o remount,rw /",
        "mount -o bind / /mnt",
        "umount /",
        "setfattr -n trusted.overlay.opaque -v y /etc",
        # In a user namespace of its own: the lower folder is no path in there either.
        "unshare --user --map-root-user --mount mount -t overlay "
        "-o lowerdir=/system,upperdir=/tmp,workdir=/tmp,userxattr overlay /mnt",
    )
    for attempt in attempts:
        assert container.exec(["sh", "-c", attempt]).returncode != 0, attempt
    for path in ("/proc/1/root/system", "/proc/self/root/../system", "/proc/1/map_files/../root/../system"):
        assert container.exec(["ls", path]).returncode != 0, path
    assert sh(lab.run(), "cat /etc/services") == before


def test_su_becomes_other_users_and_takes_no_password(lab: Any) -> None:
    need_ids(lab)
    container = lab.run()
    for user in ("nobody", "daemon"):
        assert sh(container, f"su {user} -s /bin/sh -c 'id -un; id -u'").splitlines()[0] == user
    done = container.exec(["su", "daemon", "-s", "/bin/sh", "-c", "id"], user="nobody", stdin="\n")
    assert done.returncode != 0 and "uid=1" not in done.stdout
    assert sh(container, "su -l daemon -s /bin/sh -c 'echo $LOGNAME'") == "daemon\n"


def test_su_says_what_one_id_does_not_allow(lab: Any) -> None:
    if not lab._client.facts["single_id"]:
        pytest.skip("this lab has a range of ids")
    done = lab.run().exec(["su", "nobody", "-s", "/bin/sh", "-c", "id -u"])
    assert done.returncode != 0 and "cannot set groups" in done.stderr


def test_useradd_makes_an_account_that_works(lab: Any) -> None:
    need_ids(lab)
    container = lab.run()
    sh(container, "useradd -m -s /bin/sh joe; echo joe:secret | chpasswd; groupadd club; usermod -aG club joe")
    assert sh(container, "id -un; pwd; id -Gn; touch file; stat -c %U file", user="joe", workdir="/home/joe") == (
        "joe\n/home/joe\njoe club\njoe\n"
    )
    assert sh(container, "su joe -c 'id -un'; ls -A /home/joe | grep -c profile") == "joe\n1\n"
    sh(container, "userdel -r joe; ! id joe; ! test -e /home/joe")
    assert "joe" not in (ETC / "passwd").read_text()


def test_after_the_nursery_has_died_at_once(lab: Any) -> None:
    """Whoever makes the first containers: the copy is there, or is made then."""
    script = """
import contextlib, os, signal, sys, time
from pathlib import Path
import ctlab
from kernel_help import children_of
for turn in range(6):
    with ctlab.Lab("once") as lab:
        time.sleep(turn * 0.004)
        for pid in children_of(lab._client.facts["supervisor"]):
            with contextlib.suppress(OSError):
                if b"nursery" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        first = lab.run(cap_drop=["ALL"])  # which the supervisor makes
        second = lab.run()
        for one in (first, second):
            one.exec(["sh", "-c", "echo more >> /etc/services && tail -n 1 /etc/services"]).check()
        print(first.exec(["tail", "-n", "1", "/etc/services"]).stdout.strip())
"""
    assert run_owner(script).split() == ["more"] * 6


KILLED = """
import contextlib, os, signal, sys, threading, time
from pathlib import Path
import ctlab
from kernel_help import children, children_of
title, depth, times = sys.argv[1].encode(), int(sys.argv[2]), int(sys.argv[3])

def below(pids, depth):
    for pid in pids if depth == 0 else ():
        with contextlib.suppress(OSError):
            if pid not in hit and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                os.kill(pid, signal.SIGKILL)
                hit.append(pid)
    for pid in pids if depth else ():
        with contextlib.suppress(OSError):
            below(children_of(pid), depth - 1)

def hunt():
    while len(hit) < times and not over:
        below(children(), depth)
        time.sleep(0.0005)

for turn in range(30):
    hit, said, over = [], [], False
    hunter = threading.Thread(target=hunt)
    hunter.start()
    with ctlab.Lab("killed") as lab:
        for _ in range(3):
            try:
                looking = "test -s /etc/services -a -d /var/log && echo whole"
                said += lab.run().exec(["sh", "-c", looking]).stdout.split()
            except ctlab.CtlabError as error:
                said.append(str(error))
        over = True
        hunter.join()
        other = lab.run(image="scratch").state
        if len(hit) == times and (lab.notes or said != ["whole"] * 3):  # else it had done its work
            print(*said, *lab.notes, other, sep="\\n")
            break
"""


@pytest.mark.parametrize(
    ("title", "depth", "what"),
    [
        ("ctlab reader", 1, "what read /etc and /var for the image system"),
        ("ctlab nursery", 3, "what made the image system"),
    ],
)
def test_a_reader_or_copier_that_dies_is_started_anew(title: str, depth: int, what: str) -> None:
    """Its parent does that: the keeper, of which it is a child, or the nursery."""
    said = run_owner(KILLED, title, str(depth), "1").splitlines()
    assert said == ["whole"] * 3 + [f"{what} has died and was started anew", "running"]


def test_where_the_copy_cannot_be_had_each_run_says_so() -> None:
    """No slot that was ordered before is handed out: its root would lie on nothing."""
    said = run_owner(KILLED, "ctlab nursery", "3", "4").splitlines()
    assert len(said) == 4 and said[3] == "running", said
    for line in said[:3]:
        assert "the image system can't be had" in line and "has died, 4 times" in line, line


@pytest.mark.parametrize("names", ["log", "cache lib spool"])
def test_a_link_in_a_folders_place_does_not_fail_it(names: str) -> None:
    """/var/log on a larger disk. In there it is the folder that every system has."""
    need_root("to have another /var, in a mount namespace of its own")
    links = "; ".join(f"ln -s /data/{name} /var/{name}" for name in names.split())
    said = with_another_var(f"{links}; mkdir /var/mail")
    assert said.split() == ["cache", "lib", "lock", "log", "mail", "run", "spool", "tmp", "[]"]


FILL = """
import os
for number in range(17_000):
    os.symlink("x" * 600, f"/var/crash/{number}")
for number in range(6):
    with open(f"/etc/init.d/{number}", "wb") as file:
        file.write(bytes(1_000_000))
"""


@pytest.mark.parametrize("mode", ["755", "1777"])
def test_links_do_not_fill_the_memory_that_it_has(mode: str) -> None:
    """Anybody may make some in Ubuntu's /var/crash. What doesn't fit is left out; of such a folder, all."""
    need_root("to have another /var, in a mount namespace of its own")
    said = with_another_var(
        f"mount -t tmpfs -o mode=755 tmpfs /etc/init.d; mkdir -m {mode} /var/crash; {sys.executable} -c '{FILL}'"
    )
    *names, notes = said.split(maxsplit=8)
    assert names == ["cache", "crash", "lib", "lock", "log", "run", "spool", "tmp"]
    left_out = "not in the image system, being too much: what is left of /var"
    assert notes.strip() == (f"['{left_out}']" if mode == "755" else "[]")


def with_another_var(script: str) -> str:
    """What a lab's container has in /var, and the lab's notes, where this machine's /var is what a script makes."""
    show = "import ctlab\nwith ctlab.Lab('other') as lab: print(lab.run().exec(['ls', '/var']).stdout, lab.notes)"
    script = f'mount -t tmpfs -o mode=755 tmpfs /var; {script}; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-B", "-c", show], cwd="/",
        capture_output=True, text=True, timeout=patient(40), check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


MOUNTED = """
import subprocess, sys
import ctlab
with ctlab.Lab("mounted") as lab:
    container = lab.run()
    print(container.exec(["cat", "/etc/services"]).check().stdout, end="")
    print(container.exec(["ls", "/etc/init.d"]).check().stdout, end="")
    container.exec(["sh", "-c", "echo more >> /etc/services && rm -r /etc/init.d"]).check()
    print(container.exec(["tail", "-n", "1", "/etc/services"]).check().stdout, end="")
"""


def mounting(folder: Path, command: list[str]) -> list[str]:
    """A command in a mount namespace in which other things lie on a file and on a folder of /etc.

    So it is in every container of another engine, whose /etc/hosts and /etc/resolv.conf are mounts.
    """
    (folder / "services").write_text("mounted services\n")
    (folder / "init.d").mkdir()
    (folder / "init.d/mounted").touch()
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    script = f'mount --bind {folder}/services /etc/services; mount --bind {folder}/init.d /etc/init.d; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *command]


@pytest.mark.parametrize("who", ["root", "range", "one-id"])
def test_what_is_mounted_below_etc_is_as_it_shows(tmp_path: Path, who: str) -> None:
    need_root("to mount something there, in a mount namespace of its own")
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-B", "-c", MOUNTED]
        if who != "root":
            command = stack.enter_context(ordinary_user(ids=who == "range", cgroups=False)).argv(command)
        done = subprocess.run(
            mounting(tmp_path, command), cwd="/", capture_output=True, text=True, timeout=patient(40), check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "mounted services\nmounted\nmore\n"), done.stderr


def test_a_shell_script_of_a_distribution_sees_a_system(lab: Any) -> None:
    """What packages' own scripts do: install folders, log, lock, keep state."""
    container = lab.run(
        ["sh", "-ec", "install -d -m 2775 -g mail /var/lib/app; echo a > /var/log/app.log; mkdir /run/lock; "
         "echo $$ > /var/run/app.pid; echo l > /var/lock/app; ls -d /var/lib/app; cat /run/lock/app; echo done"],
    )  # fmt: skip
    if lab._client.facts["single_id"]:
        assert container.wait(patient(10)) != 0, "a group that isn't there can't be given anything"
        return
    said(container, "done\n")
    assert container.logs().stdout == "/var/lib/app\nl\ndone\n"
