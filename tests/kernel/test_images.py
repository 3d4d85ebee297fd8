"""Images on the real kernel: the system, nothing at all, folders, archives; hostile ones stay in their root."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_ids, patient, uses

from ctlab.errors import BadInput, CtlabError, KernelError, NotFound, ProgramNotFound, Unsupported

pytestmark = pytest.mark.kernel


def program() -> Path:
    """A statically linked program, which runs in an image that has nothing else."""
    for name in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(name):
            return Path(name)
    pytest.skip("no busybox on this machine (Debian package busybox-static)")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root file system with busybox in it."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    root = tmp_path / "root"
    for name in ("bin", "etc", "data"):
        (root / name).mkdir(parents=True)
    shutil.copy(program(), root / "bin/busybox")
    for name in ("sh", "cat", "ls", "echo", "id", "readlink", "touch", "mkdir"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:7:7::/home/me:/bin/sh\n")
    (root / "data/file").write_text("of the image\n")
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)
    return root


def pack(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], base: Path | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        if base is not None:
            archive.add(base, arcname=".")
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.chmod(0o644)
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def test_system_is_read_only_below_and_private_above(lab: Any) -> None:
    one, two = lab.run(), lab.run()
    mark = f"/usr/ctlab-test-{os.getpid()}"
    one.exec(["sh", "-c", f"echo mine > {mark}; echo mine > /etc{mark[4:]}"]).check()
    assert one.exec(["cat", mark]).stdout == "mine\n"
    assert two.exec(["test", "-e", mark]).returncode == 1
    if "overlay /usr overlay" in one.exec(["cat", "/proc/mounts"]).stdout:
        uses("overlay-usr")
    assert not os.path.exists(mark) and not os.path.exists(f"/etc{mark[4:]}")
    assert one.exec(["cat", "/etc/os-release"]).stdout == Path("/etc/os-release").read_text()


def test_scratch_is_empty(lab: Any) -> None:
    with pytest.raises(ProgramNotFound, match="no program 'sh'"):
        lab.run(["sh"], image="scratch")
    container = lab.run(["/busybox", "ls", "/"], image="scratch", mounts=[f"{program()}:/busybox:ro"])
    assert container.wait(patient(5)) == 0
    assert set(container.logs().split()) == {"busybox", "dev", "etc", "proc", "sys", "tmp"}


def test_a_folder_is_an_image_and_stays_as_it_is(lab: Any, tree: Path) -> None:
    container = lab.run(image=str(tree))
    assert container.exec(["cat", "/data/file"]).check().stdout == "of the image\n"
    container.exec(["sh", "-c", "echo changed > /data/file; touch /new"]).check()
    assert (tree / "data/file").read_text() == "of the image\n" and not (tree / "new").exists()
    assert lab.run(["cat", "/data/file"], image=str(tree), name="two").wait(5) == 0
    assert lab["two"].logs() == "of the image\n"
    assert "nameserver" in container.exec(["cat", "/etc/resolv.conf"]).stdout
    assert sorted(os.listdir(tree)) == ["bin", "data", "etc"] and os.listdir(tree / "etc") == ["passwd"]


def test_users_are_the_images_own(lab: Any, tree: Path) -> None:
    need_ids(lab)
    container = lab.run(image=str(tree))
    assert container.exec(["id", "-u"], user="me").check().stdout == "7\n"


def test_a_tar_file_is_an_image(lab: Any, tree: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "image.tar", [], tree)
    container = lab.run(["cat", "/data/file"], image=str(archive))
    assert container.wait(patient(5)) == 0 and container.logs() == "of the image\n"
    (tree / "data/file").write_text("of another\n")
    os.utime(pack(archive, [], tree), (1, 1))
    again = lab.run(["cat", "/data/file"], image=str(archive))
    assert again.wait(patient(5)) == 0 and again.logs() == "of another\n"


def test_links_of_an_image_lead_nowhere_else(lab: Any, tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "secret").write_text("secret")
    for name in ("resolv.conf", "hosts", "hostname"):
        (tree / "etc" / name).symlink_to(f"{outside}/{name}")
    (tree / "dev").symlink_to(outside)
    (tree / "proc").symlink_to("/data")
    (tree / "up").symlink_to("../../../../../data")
    (tree / "out").symlink_to(outside)
    with pytest.raises(CtlabError, match="on /out/in/here: "):
        lab.run(image=str(tree), mounts=[f"{outside}/secret:/out/in/here:ro"])
    container = lab.run(image=str(tree), mounts=[f"{outside}/secret:/up/in/here:ro"])
    assert sorted(os.listdir(outside)) == ["secret"]
    assert "nameserver" in container.exec(["cat", "/etc/resolv.conf"]).check().stdout
    assert container.exec(["cat", "/data/in/here"]).check().stdout == "secret"
    assert container.exec(["ls", str(outside)]).returncode != 0
    assert container.exec(["ls", "/proc/1/status", "/dev/null"]).returncode == 0


@pytest.mark.parametrize("hostile", ["parent", "absolute-link", "planted-link", "device", "hard-link", "absolute"])
def test_hostile_archives(lab: Any, tree: Path, tmp_path: Path, hostile: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "victim").write_text("as it was")
    (outside / "victim").chmod(0o666)
    members = {
        "parent": [(entry("../../outside/evil"), b"x")],
        "absolute": [(entry(f"{outside}/evil"), b"x")],
        "absolute-link": [(entry("data/link", tarfile.SYMTYPE, f"{outside}/victim"), b""), (entry("data/link"), b"x")],
        "planted-link": [(entry("planted", tarfile.SYMTYPE, str(outside)), b""), (entry("planted/evil"), b"x")],
        "device": [(entry("data/disk", tarfile.BLKTYPE), b"")],
        "hard-link": [(entry("data/hard", tarfile.LNKTYPE, f"{outside}/victim"), b""), (entry("data/hard"), b"x")],
    }[hostile]
    archive = pack(tmp_path / "hostile.tar", members, tree)
    for _ in range(2):  # a refused archive is refused again, not half there
        try:
            container = lab.run(image=str(archive))
        except BadInput as error:
            assert "archive" in str(error)
            assert hostile in ("parent", "hard-link", "planted-link"), error
            container = None
        if container is not None:
            assert container.exec(["ls", "-l", "/data"]).returncode == 0
            assert "brw" not in container.exec(["ls", "-l", "/data"]).stdout
    assert (outside / "victim").read_text() == "as it was" and os.listdir(outside) == ["victim"]
    assert lab.run(["true"]).wait(patient(5)) == 0


def test_a_broken_archive_is_named(lab: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(os.urandom(5000))
    for _ in range(2):
        with pytest.raises(BadInput, match="not a usable tar archive"):
            lab.run(["true"], image=str(broken))
    assert len(lab.containers) == 0


def test_images_that_are_not_there(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for text, kind, message in (
        ("sleep", NotFound, "no image 'sleep'; to run it on this machine's system: %container run -- sleep 9"),
        ("./nowhere", NotFound, "does not exist"),
        ("docker.io/library/alpine", Unsupported, "names a registry: not in this version"),
        (str(tmp_path / "file"), BadInput, "neither a folder nor a tar file"),
    ):
        with pytest.raises(kind, match=message):
            lab.run(["9"], image=text)
    with pytest.raises(CtlabError):
        lab.run(["true"], image=str(tmp_path))
    assert len(lab.containers) == 0


def test_an_image_that_is_not_the_containers_to_change_is_one_line(lab: Any) -> None:
    """The machine's root: started by root its files belong to nobody inside, else it can't be overlaid at all."""
    need_ids(lab)
    with pytest.raises(KernelError) as caught:
        lab.run(["true"], name="whole", image="/", networks=["none"])
    failed, _, remedy = str(caught.value).partition("; ")
    assert failed in (
        "container whole: write file /etc/hostname: EACCES (Permission denied)",
        "container whole: root overlay: EINVAL (Invalid argument)",
    )
    assert remedy == (
        "/ as it is can't be the image of this lab: use a copy that is yours, or the image system, which is this "
        "machine's own"
    )


def test_a_mount_that_cannot_be_names_the_errno(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=rf"mount {tmp_path} on /etc/passwd: ENOTDIR \("):
        lab.run(["true"], mounts=[f"{tmp_path}:/etc/passwd"])
