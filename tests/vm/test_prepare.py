"""What a VM boots from, made ready for real: once, whole, mended when damaged, by root and by an ordinary user.

The kernel is put ready where the error's text says (`put_kernel`), so that nothing is fetched.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import newc
import pytest
from as_user import ordinary_user
from kernel_help import need_root, patient
from vm_help import START_WORDS, apart, environment, listed, put_kernel, said

from ctlab.vm import accel, cache, initramfs, programs
from ctlab.vm.prepare import prepare, ready, status

pytestmark = pytest.mark.usefixtures("machine_programs")

VM = [sys.executable, "-B", "-m", "ctlab", "vm"]


def command(*words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """`python -m ctlab vm`: its exit status, and all that it wrote."""
    done = subprocess.run(
        [*VM, *words], cwd="/", env=environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=patient(100), check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells whether anything in a cache was made anew: of each file the inode, size and time of change."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    return {str(path): (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


@pytest.fixture(scope="module")
def own(machine_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the test's own, prepared from a kernel that was put ready in it."""
    above = tmp_path_factory.mktemp("own")
    folder = put_kernel(above)
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(above))
    try:
        made = prepare().made
        assert [what.split()[0] for what in made] == ["kernel", "base", "initramfs"]
        yield folder
    finally:
        patch.undo()


def test_asking_what_there_is_makes_nothing(tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "none")}
    exit_status, text = command("status", env=env)
    assert exit_status == 0 and "not prepared yet" in text and "to prepare it: python -m ctlab vm prepare" in text
    assert f"{tmp_path}/none/ctlab/vm (0B)" in text
    assert os.listdir(tmp_path) == []


def test_everything_is_made_once_and_is_private_and_whole(own: Path) -> None:
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    before = contents(own)
    prepared = prepare()
    assert prepared.made == () and prepared == ready()
    assert prepare(thorough=True).made == ()
    assert contents(own) == before and not [name for name in listed(own) if name.startswith(".new-")]
    for path in (prepared.kernel, prepared.initramfs):  # QEMU opens them anew, as another user
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    state = status()
    assert (state.release, state.folder, state.problem) == (prepared.release, str(own), "")
    assert state.size_bytes > sum(path.stat().st_size for path in (prepared.kernel, prepared.initramfs))


@pytest.mark.parametrize("what", ["kernel", "initramfs"])
def test_a_damaged_file_is_made_anew(own: Path, what: str) -> None:
    """The same size and time of change, and one bit another: a thorough look finds it."""
    path: Path = getattr(prepare(), what)
    good, before = path.read_bytes(), path.stat()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    made = prepare(thorough=True).made
    assert made and all(word.split()[0] in ("kernel", "initramfs", "base") for word in made)
    assert path.read_bytes() == good and prepare(thorough=True).made == ()


@pytest.mark.parametrize("what", ["kernel", "initramfs"])
def test_a_file_cut_off_is_made_anew_at_the_next_start(own: Path, what: str) -> None:
    path: Path = getattr(prepare(), what)
    good = path.read_bytes()
    path.write_bytes(good[:-4096])
    assert ready() is None
    assert prepare().made and path.read_bytes() == good and ready() is not None


def test_what_somebody_killed_has_left_is_cleared_when_something_is_made(own: Path) -> None:
    (own / ".new-folder").mkdir()
    (own / ".new-folder" / "vmlinux").write_bytes(b"half")
    (own / ".new-file").write_bytes(b"half")
    prepare().initramfs.unlink()
    assert prepare().made == ("initramfs",)
    assert not [name for name in listed(own) if name.startswith(".new-")]


def test_two_who_prepare_at_once_make_it_once(own: Path) -> None:
    prepare().initramfs.unlink()
    made: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: made.append(prepare().made)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [(), ("initramfs",)]


def test_a_cache_that_may_only_be_read_is_enough(own: Path) -> None:
    """A read-only mount, which not even root can write to; what would be made in it is one line."""
    prepare()
    above = str(own.parent.parent)
    read_only = [f"mount --bind {above} {above}", f"mount -o remount,ro,bind {above}"]
    for words in ("prepare", "status"):
        done = apart([*VM, words], *read_only, env={"XDG_CACHE_HOME": above})
        assert done.returncode == 0 and f"Linux {prepare().release}" in done.stdout, done.stdout
    assert "everything was there" in apart([*VM, "prepare"], *read_only, env={"XDG_CACHE_HOME": above}).stdout
    prepare().initramfs.unlink()
    done = apart([*VM, "prepare"], *read_only, env={"XDG_CACHE_HOME": above})
    remedy = "set XDG_CACHE_HOME to a folder of yours\n"
    assert done.returncode == 1 and done.stdout.startswith(f"can't write the VM's files to {own}: EROFS (")
    assert done.stdout.endswith(remedy) and done.stdout.count("\n") == 1
    prepare()


def test_a_cache_of_somebody_else_is_refused(tmp_path: Path) -> None:
    need_root("to give a folder away")
    folder = tmp_path / "ctlab" / "vm"
    folder.mkdir(parents=True)
    os.chown(folder, 1, 1)
    for words in ("prepare", "status"):
        exit_status, text = command(words, env={"XDG_CACHE_HOME": str(tmp_path)})
        owner = "belongs to user 1, not to you (0)"
        assert (exit_status, text) == (1, f"{folder} {owner}: set XDG_CACHE_HOME to a folder of yours\n")


def test_the_initramfs_runs_where_nothing_else_is(own: Path, tmp_path: Path) -> None:
    """What the guest's first process imports is all in the archive: run in an empty root made of it alone."""
    root = tmp_path / "root"
    root.mkdir()
    newc.write_out(prepare().initramfs.read_bytes(), root)
    done = apart(
        [programs.find().busybox, "chroot", str(root), initramfs.INTERPRETER, "-I", "-S", "-B", "-c",
         "import sys, ctlab.vm.guest, ctlab.vm.guest_programs, ctlab.runtime.seed, ctlab.runtime.keeper, json\n"
         "print(sorted({module.__file__.split('/lib/')[0] for module in sys.modules.values() "
         "if getattr(module, '__file__', None)}))"],
        env={"LD_LIBRARY_PATH": initramfs.LIBRARIES},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "['/run/ctlab']\n", done.stdout


def test_the_modules_own_texts_give_an_order_in_which_they_load() -> None:
    """Of the real kernel, its texts read in another way than the code does."""
    place = prepare().kernel.parent
    facts = cache.read_json(place / cache.FACTS)
    order: list[str] = facts["modules"]
    early: list[str] = facts["early"]
    assert len(order) > 20 and len(order) == len(set(order)) and early and set(early) <= set(order)
    texts = {name: (place / "modules" / f"{name}.ko").read_bytes() for name in order}
    for names in (order, early):
        seen: set[str] = set()
        for name in names:
            depends = re.search(rb"\0depends=([^\0]*)\0", texts[name])
            softly = b" ".join(re.findall(rb"\0softdep=pre: ([^\0]*)\0", texts[name]))
            assert depends is not None and b"post:" not in softly
            needs = {word for word in depends[1].decode().replace("-", "_").split(",") if word}
            before = set(softly.decode().replace("-", "_").split()) & set(order)
            assert needs <= seen and before <= seen, name
            seen.add(name)


def test_whether_kvm_runs_a_guest_is_found_out_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = accel.choose(programs.find().qemu, prepare().kernel)
    assert answer in (accel.KVM, accel.TCG) and accel.known() == answer == status().acceleration
    if os.access(accel.DEVICE, os.R_OK | os.W_OK):
        note = own / "acceleration.json"
        assert cache.read_json(note)["answer"] == answer
        before = note.stat()
        assert accel.choose(programs.find().qemu, prepare().kernel) == answer
        assert note.stat().st_ino == before.st_ino  # a second trial would have written it anew


# -- an ordinary user -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def user(machine_programs: None) -> Iterator[Any]:
    """A user made for it, with a kernel put ready in its cache."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a user")
    with ordinary_user(ids=True, cgroups=False) as made:
        folder = put_kernel(made.home / ".cache", link=False)
        for path in (made.home / ".cache", *(made.home / ".cache").rglob("*")):
            os.chown(path, made.uid, made.gid)
        secret = made.home / "secret"
        secret.write_text("the user's own\n")
        secret.chmod(0o600)
        os.chown(secret, made.uid, made.gid)
        (made.home / "shown").mkdir(mode=0o755)
        (made.home / "shown" / "roots").write_text("root's own\n")
        (made.home / "shown" / "roots").chmod(0o600)
        assert folder.exists()
        yield made


def test_an_ordinary_user_prepares_looks_and_starts(user: Any) -> None:
    """What the guest sees is what that user may read: its own file, and not root's."""
    before = user.run([*VM, "status"])
    assert before.returncode == 0 and "not prepared yet" in before.stdout, before.stdout
    done = user.run([*VM, "prepare"])
    assert done.returncode == 0 and "made: initramfs" in done.stdout, done.stdout
    after = user.run([*VM, "status"])
    assert after.returncode == 0 and f"{user.home}/.cache/ctlab/vm" in after.stdout, after.stdout
    kind, text = said(user.run([sys.executable, "-B", "-c", SEEN, str(user.home)]))
    assert kind == "ready" and text == "the user's own\n", text


SEEN = """
import json, sys, ctlab
with ctlab.Lab("seen", engine="vm") as lab:
    container = lab.run(mounts=[f"{sys.argv[1]}/secret:/secret:ro", f"{sys.argv[1]}/shown:/shown:ro"])
    shadow = container.exec(["cat", "/etc/shadow"]).check().stdout.splitlines()
    assert shadow and {line.split(":")[1] for line in shadow} <= {"*", "!"}, "passwords are shown"
    kept = container.exec(["cat", "/shown/roots"])
    assert kept.returncode != 0 and "Permission denied" in kept.stderr, "root's file is shown"
    print(json.dumps(["ready", container.exec(["cat", "/secret"]).check().stdout]))
"""


@pytest.mark.long
def test_root_of_an_ordinary_users_namespace_has_a_lab_from_a_cache_that_may_only_be_read(user: Any) -> None:
    """`unshare -r`: root by name, with no other user to become; what it reads is what that user may."""
    assert user.run([*VM, "prepare"]).returncode == 0
    run = user.home / "run"  # the folder in /tmp that it would have by its name is root's
    run.mkdir()
    os.chown(run, user.uid, user.gid)
    lines = 'set -e; C=$HOME/.cache; mount --bind $C $C; mount -o remount,ro,bind $C; exec "$@"'
    words = ["unshare", "-Urm", "sh", "-c", lines, "sh", *START_WORDS]
    kind, text = said(user.run(words, env={"XDG_RUNTIME_DIR": str(run)}))
    assert (kind, text) == ("ready", "hello\n")


def test_root_of_roots_namespace_is_refused_in_one_line() -> None:
    """There, nobody else is to be had, and root's files could not be kept from the guest."""
    need_root("whose files are meant")
    kind, text = said(apart(START_WORDS))
    assert kind == "Unsupported" and "\n" not in text
    assert text.startswith("the lab can't start: started by root, a VM shares only what the user nobody may read")
