"""Hostile tar streams as images and into containers: refused or unpacked inside, nothing of the machine is touched."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_tar
import pytest
from kernel_help import patient

from ctlab.errors import BadInput, CtlabError, KernelError
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
LINKS = (
    "/proc/self/cwd", "/proc/self/exe", "/proc/self/fd/3", "/proc/1/root", "/proc/self/root", "here", "/nowhere",
    "/nowhere/deep", "../../../..", "/bin/busybox",
)  # fmt: skip


def busybox() -> Path:
    for name in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(name):
            return Path(name)
    pytest.skip("no busybox on this machine (Debian package busybox-static)")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(where an archive can be put, what is aimed at)."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "victim").write_text("as it was")
    (outside / "victim").chmod(0o666)
    return tmp_path, outside


def untouched(outside: Path) -> bool:
    found = (outside / "victim").stat()
    return (os.listdir(outside), (outside / "victim").read_text(), found.st_nlink, found.st_mode & 0o7777) == (
        ["victim"], "as it was", 1, 0o666,
    )  # fmt: skip


@pytest.mark.parametrize("what", hostile_tar.CORPUS)
def test_as_an_image_and_into_a_container(lab: Any, folders: tuple[Path, Path], what: str) -> None:
    place, outside = folders
    data = hostile_tar.build(hostile_tar.CORPUS[what](bytes(outside)))
    archive = place / "image.tar"
    archive.write_bytes(data)
    archive.chmod(0o644)
    for _ in range(2):  # what was refused is refused again, not half there
        with pytest.raises(CtlabError) as caught:  # at the latest since there is nothing to run in it
            lab.run(["/nothing"], image=str(archive))
        text = str(caught.value)
        assert "\n" not in text and len(text) < 500 and text.isprintable(), text
        assert "Error:" not in text, text
    container = lab.run(["sleep", "60"])
    said = stream_in(container, data, "/srv/here")
    assert "\n" not in said and len(said) < 500, said
    assert untouched(outside)
    assert container.exec(["true"]).returncode == 0


def stream_in(container: Any, data: bytes, path: str) -> str:
    """Unpack any bytes in a container, as `cp` does with those that it makes: "" or the refusal."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    connection = container.lab._client.connection()
    try:
        connection.send(messages.CopyIn(container.id, path), [reading])
        os.close(reading)
        try:
            with open(writing, "wb") as file:
                file.write(data)
        except BrokenPipeError:
            pass
        connection.receive(messages.Copied)
    except (BadInput, KernelError) as error:
        return str(error)
    finally:
        connection.close()
    return ""


@pytest.mark.parametrize("name", ["tmp", "etc", "proc", "sys", "dev"])
@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_what_lies_at_the_place_of_a_folder_refuses_no_image(
    lab: Any, folders: tuple[Path, Path], name: str, packed: bool
) -> None:
    """A link that leads to no folder, or a file: a folder takes its place, in the container alone."""
    place, outside = folders
    root = place / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox(), root / "bin/busybox")
    for folder in (root, root / "bin"):
        folder.chmod(0o755)
    for number, link in enumerate((*LINKS, "")):
        if link:
            (root / name).symlink_to(name if link == "here" else link)
        else:
            (root / name).write_text("a file")
        image = root
        if packed:
            image = place / f"{number}.tar"
            with tarfile.open(image, "w") as archive:
                archive.add(root, arcname=".")
            image.chmod(0o644)
        container = lab.run(["/bin/busybox", "sleep", "60"], image=str(image), name=f"{name}-{number}")
        shown = container.exec(["/bin/busybox", "ls", "-ld", f"/{name}/.", "/etc/hosts", "/proc/1/status"])
        assert shown.returncode == 0, (link, shown)
        container.kill()
        container.start()
        container.remove()
        (root / name).unlink()
    assert untouched(outside)


def zstd(data: bytes) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("no program zstd on this machine")
    return subprocess.run([program, "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress,
    ".tar.zst": zstd,
}  # fmt: skip


@pytest.mark.parametrize("ending", PACKED)
def test_a_compressed_image(lab: Any, folders: tuple[Path, Path], ending: str) -> None:
    plain = folders[0] / "plain.tar"
    with tarfile.open(plain, "w") as archive:
        archive.add(busybox(), arcname="bin/busybox")
    image = folders[0] / f"image{ending}"
    image.write_bytes(PACKED[ending](plain.read_bytes()))
    image.chmod(0o644)
    container = lab.run(["/bin/busybox", "echo", "it runs"], image=str(image))
    assert (container.wait(patient(5)), container.logs()) == (0, "it runs\n")
    cut = folders[0] / f"cut{ending}"
    cut.write_bytes(image.read_bytes()[: len(image.read_bytes()) // 2])
    cut.chmod(0o644)
    with pytest.raises(BadInput, match="not a usable tar archive: "):
        lab.run(["true"], image=str(cut))
