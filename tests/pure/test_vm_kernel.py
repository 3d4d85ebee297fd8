"""A kernel that was delivered: what it is for, whether it is whole, which of its modules are taken, and from where."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_vm_archives import package

from ctlab.errors import CtlabError, Unsupported
from ctlab.vm import architecture, kernel_image, modules, sources

X86, ARM = architecture.of("x86_64"), architecture.of("aarch64")


# -- images -----------------------------------------------------------------------------------------------------------
def elf(machine: int, note: tuple[bytes, int] | None = (b"Xen\0", 18)) -> bytes:
    """An ELF file of 64 bits with one segment of notes; type 18 of Xen is the entry that QEMU starts."""
    body = b"" if note is None else struct.pack("<III", len(note[0]), 8, note[1]) + note[0] + b"\1" * 8
    header = (
        b"\x7fELF\x02\x01\x01"
        + b"\0" * 9
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(body), len(body), 4) + body


def bzimage(kernel: bytes, compress: bool = True, says: int | None = None) -> bytes:
    """An x86 boot image (boot.rst) with a payload, behind which stands how long it was."""
    size = struct.pack("<I", len(kernel) if says is None else says)
    body = lzma.compress(kernel) + size if compress else kernel
    image = bytearray(4 * 512)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300)
    image[0x500 : 0x500 + 40] = b"6.1.0-test (build@host) #1 SMP\0".ljust(40, b"\0")
    struct.pack_into("<II", image, 0x248, 0, len(body))
    body += b"\0" * (-len(body) % 16)
    struct.pack_into("<I", image, 0x1F4, len(body) // 16)
    return bytes(image) + body


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


ARM64_IMAGE = b"\0" * 0x38 + b"ARM\x64" + b"\0" * 64
KERNEL = elf(62) + b"code" * 5000


@pytest.mark.parametrize(("image", "wanted"), [
    (bzimage(KERNEL), X86), (KERNEL, X86), (elf(183), ARM), (ARM64_IMAGE, ARM), (gzipped(ARM64_IMAGE), ARM),
    (b"MZ\0\0zimg" + b"\0" * 64, ARM),
])  # fmt: skip
def test_an_image_is_for_one_architecture_and_refused_for_the_other(
    image: bytes, wanted: architecture.Architecture
) -> None:
    kernel_image.check(image, "the kernel", wanted)
    other = ARM if wanted is X86 else X86
    with pytest.raises(CtlabError) as caught:
        kernel_image.check(image, "the kernel", other)
    assert str(caught.value) == (
        f"the kernel is a kernel for {wanted.machine} and this machine is {other.machine}: "
        f"take the package for {other.debian}"
    )


def test_another_architecture_is_named_by_its_number_where_it_has_no_name() -> None:
    with pytest.raises(CtlabError, match="a kernel for 243 and this machine is x86_64"):
        kernel_image.check(elf(243), "k", X86)


@given(st.binary(max_size=2048))
def test_any_bytes_are_a_kernel_or_one_line(data: bytes) -> None:
    try:
        kernel_image.check(data, "k", X86)
    except (CtlabError, Unsupported) as error:
        assert str(error).startswith("k ") and "\n" not in str(error)
    else:
        kernel_image.bootable(data, "k")


@pytest.mark.parametrize("image", [bzimage(KERNEL), bzimage(KERNEL, compress=False)])
def test_the_kernel_inside_an_image_is_taken_if_qemu_can_start_it(image: bytes) -> None:
    kernel_image.check(image, "k", X86)
    assert kernel_image.bootable(image, "k").rstrip(b"\0") == KERNEL.rstrip(b"\0")
    assert kernel_image.release(image) == "6.1.0-test"
    for note in (None, (b"Xen\0", 17), (b"GNU\0", 18)):
        other = bzimage(elf(62, note) + b"code" * 5000)
        assert kernel_image.bootable(other, "k") == other
    assert kernel_image.bootable(ARM64_IMAGE, "k") == ARM64_IMAGE and kernel_image.release(ARM64_IMAGE) == ""


@given(st.integers(0, len(bzimage(KERNEL)) - 1))
def test_an_image_cut_off_anywhere_is_refused(length: int) -> None:
    with pytest.raises(CtlabError) as caught:
        kernel_image.check(bzimage(KERNEL)[:length], "k", X86)
    text = str(caught.value)
    assert "fetch it again" in text and ("is cut off" in text or "isn't a kernel image" in text) and "\n" not in text


def test_an_image_whose_kernel_is_damaged_is_refused() -> None:
    image = bytearray(bzimage(KERNEL))
    image[4 * 512 + 40] ^= 0xFF
    for damaged in (bytes(image), bzimage(KERNEL, says=5)):
        kernel_image.check(damaged, "k", X86)  # its own header is in order
        with pytest.raises(CtlabError, match=r"k is damaged: .*fetch it again"):
            kernel_image.bootable(damaged, "k")


def test_machines_that_have_no_vm() -> None:
    assert architecture.of("AMD64") is X86 and architecture.of("arm64") is ARM
    with pytest.raises(Unsupported, match="a VM lab runs on x86_64 and aarch64, and this machine is riscv64"):
        architecture.of("riscv64")


# -- modules ----------------------------------------------------------------------------------------------------------
def module(*texts: str) -> bytes:
    """A module with these texts in its section .modinfo, and another section before it."""
    body = b"".join(text.encode() + b"\0" for text in texts)
    names = b"\0.text\0.modinfo\0.shstrtab\0"
    sections = [(0, b""), (1, b"\x90" * 24), (7, body), (16, names)]
    offset, data, headers = 64, b"", b""
    for name, content in sections:
        headers += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset + len(data), len(content), 0, 0, 1, 0)
        data += content
    fields = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, offset + len(data), 0, 64, 0, 0, 64, len(sections), 3)
    return b"\x7fELF\x02\x01\x01" + b"\0" * 9 + fields + data + headers


def test_what_a_module_says_of_itself() -> None:
    data = module(
        "license=GPL", "depends=nf-tables,ipv6", "softdep=pre: crc32c aes-x post: late", "alias=net-pf-9",
        "alias=rtnl-x", "softdep=pre: crc32c other", "softdep=post: never",
    )  # fmt: skip
    assert modules.info("m", data) == modules.Info(
        "m", ("nf_tables", "ipv6"), ("crc32c", "aes_x", "other"), ("net-pf-9", "rtnl-x")
    )
    assert modules.info("m", module("license=GPL", "depends=")) == modules.Info("m", (), (), ())


@example(44, b"\0\0\0\x80" + bytes(13) + b"\1\0\0")  # section headers farther off than a number can say
@given(st.integers(0, 500), st.binary(max_size=40))
def test_a_damaged_module_is_one_line(length: int, more: bytes) -> None:
    for data in (module("license=GPL", "depends=a")[:length] + more, more):
        try:
            modules.info("m", data)
        except CtlabError as error:
            assert str(error).startswith("the kernel module m is damaged") and "\n" not in str(error)


def tree(**needs: str) -> dict[str, modules.Info]:
    """Modules by name, each with what it depends on; behind `|` what is loaded before if it is there."""
    found = {}
    for name, text in needs.items():
        depends, _, before = text.partition("|")
        found[name] = modules.Info(name, tuple(depends.split()), tuple(before.split()), (f"alias-of-{name}",))
    return found


ESSENTIAL = dict.fromkeys(modules.ESSENTIAL, "")


def test_what_a_module_needs_comes_before_it_and_nothing_else_comes() -> None:
    there = tree(**ESSENTIAL, top="middle low", middle="low|soft gone", low="", soft="deep", deep="", unused="")
    chosen = modules.select(there, set(), ["top", "nowhere"], "k")
    order = [one.name for one in chosen.modules]
    assert order == [*modules.ESSENTIAL, "deep", "soft", "low", "middle", "top"]
    assert chosen.missing == ("nowhere",)
    assert modules.select(there, {"low", *modules.ESSENTIAL}, ["middle"], "k").modules[-1].name == "middle"
    assert "low" not in [one.name for one in modules.select(there, {"low"}, ["middle"], "k").modules]


@pytest.mark.parametrize("name", modules.ESSENTIAL)
def test_without_an_essential_module_there_is_no_guest(name: str) -> None:
    there = tree(**{other: "" for other in modules.ESSENTIAL if other != name})
    with pytest.raises(CtlabError) as caught:
        modules.select(there, set(), [], "the-package")
    assert str(caught.value) == f"the-package has no module {name}: take another kernel package"
    assert len(modules.select(there, {name}, [], "k").modules) == len(modules.ESSENTIAL) - 1


def test_what_a_wanted_module_needs_must_be_there() -> None:
    with pytest.raises(CtlabError, match="k has no module b, which a needs: take another kernel package"):
        modules.select(tree(**ESSENTIAL, a="b"), set(), ["a"], "k")


def test_modules_that_name_each_other_softly_are_both_taken() -> None:
    chosen = modules.select(tree(**ESSENTIAL, a="|b", b="|a"), set(), ["a"], "k")
    assert {"a", "b"} <= {one.name for one in chosen.modules}
    told = modules.tables(chosen.modules)["modules.dep"].splitlines()
    assert "a.ko: b.ko" in told and "b.ko: a.ko" in told


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh")), min_size=1))
def test_the_order_holds_for_any_modules(needs: dict[str, set[str]]) -> None:
    """Each depends on those that sort before it alone, so that none waits for itself."""
    there = tree(
        **ESSENTIAL, **{n: " ".join(sorted(o for o in others if o < n and o in needs)) for n, others in needs.items()}
    )
    chosen = modules.select(there, set(), sorted(needs, reverse=True), "k").modules
    seen: set[str] = set()
    for one in chosen:
        assert set(one.depends) <= seen
        seen.add(one.name)
    tables = modules.tables(chosen)
    for line in tables["modules.dep"].splitlines():
        name, _, needed = line.partition(".ko:")
        words = [word.removesuffix(".ko") for word in needed.split()]
        assert len(words) == len(set(words)) and set(there[name].depends) <= set(words)
        for at, word in enumerate(words):  # modprobe loads from the last to the first
            assert set(there[word].depends) <= set(words[at + 1 :])
    assert tables["modules.alias"].count("\n") == len(chosen)


def test_names_of_files() -> None:
    for path, name in (
        ("kernel/net/8021q/8021q.ko.xz", "8021q"), ("nf-tables.ko", "nf_tables"), ("a/b/sch_fq.ko.zst", "sch_fq"),
    ):  # fmt: skip
        assert modules.name_of(path) == name
    assert modules.builtin_names("kernel/a/b-c.ko\n\nkernel/d.ko\n") == {"b_c", "d"}


# -- where it comes from ----------------------------------------------------------------------------------------------
IMAGE = bzimage(KERNEL)
FILES = {
    "boot/vmlinuz-6.1-x": IMAGE, "usr/lib/modules/6.1-x/kernel/veth.ko.xz": b"veth",
    "usr/lib/modules/6.1-x/modules.builtin": b"kernel/fs/fuse.ko\n", "usr/share/doc/x": b"",
}  # fmt: skip


def test_a_kernel_is_read_from_one_package_or_from_two(tmp_path: Path) -> None:
    (tmp_path / "all.deb").write_bytes(package(FILES))
    (tmp_path / "a.deb").write_bytes(package({"boot/vmlinuz-6.1-x": IMAGE}))
    (tmp_path / "b.deb").write_bytes(package({path: data for path, data in FILES.items() if "vmlinuz" not in path}))
    for names in (["all.deb"], ["a.deb", "b.deb"], ["b.deb", "a.deb"]):
        found = sources.from_packages([tmp_path / name for name in names], "here", X86)
        assert found == ("here", "6.1-x", IMAGE, {"veth": b"veth"}, frozenset({"fuse"}))


def test_packages_without_a_kernel_or_with_another(tmp_path: Path) -> None:
    path = tmp_path / "p.deb"
    path.write_bytes(package({"usr/bin/x": b""}))
    with pytest.raises(CtlabError) as caught:
        sources.from_packages([path], "p.deb", X86)
    assert str(caught.value) == "no kernel (boot/vmlinuz-...) in p.deb: take a linux-image package"
    path.write_bytes(package(FILES))
    with pytest.raises(CtlabError, match=r"p\.deb is a kernel for x86_64 and this machine is aarch64"):
        sources.from_packages([path], "p.deb", ARM)
    with pytest.raises(CtlabError, match=r"can't read the kernel package .*/none\.deb: No such file"):
        sources.from_packages([tmp_path / "none.deb"], "none.deb", X86)


def test_the_named_package_comes_first_then_the_caches_then_an_image_put_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    (folder / "modules").mkdir(parents=True)
    assert sources.can_get(folder) or not os.path.exists("/usr/bin/apt-get")
    (folder / "vmlinuz").write_bytes(IMAGE)
    (folder / "modules" / "modules.builtin").write_text("")
    (folder / "modules" / "veth.ko").write_bytes(b"of the folder")
    found = sources.get(folder, X86)
    assert (found.origin, found.release, found.modules["veth"]) == (
        f"{folder}/vmlinuz", "6.1.0-test", b"of the folder",
    )  # fmt: skip
    (folder / "put.deb").write_bytes(package(FILES))
    assert sources.get(folder, X86).origin == "put.deb"
    for name in ("one.deb", "two.deb"):
        (tmp_path / name).write_bytes(package(FILES))
    monkeypatch.setenv(sources.VARIABLE, os.pathsep.join(str(tmp_path / name) for name in ("one.deb", "two.deb")))
    assert sources.get(folder, X86).origin == "one.deb two.deb" and sources.can_get(tmp_path)


def test_where_nothing_can_be_had_the_error_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without apt, and on a kernel whose image isn't here."""
    monkeypatch.setenv("PATH", str(tmp_path))
    own = os.uname()
    nowhere = os.uname_result((own.sysname, own.nodename, "0-nowhere", own.version, own.machine))
    monkeypatch.setattr(os, "uname", lambda: nowhere)
    assert not sources.can_get(tmp_path)
    with pytest.raises(Unsupported) as caught:
        sources.get(tmp_path, X86)
    text = str(caught.value)
    assert text.startswith("no kernel for the VM (this machine's own: /boot/vmlinuz-0-nowhere") and "\n" not in text
    assert f"put the .deb into {tmp_path}, or name it in CTLAB_VM_KERNEL_DEB" in text
