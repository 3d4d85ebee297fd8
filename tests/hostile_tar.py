"""Tar archives that somebody hostile has made: each aims at what lies outside of where it is unpacked.

Built from single blocks, since no honest tool writes most of them. `CORPUS`: what it is → a function of the folder that
is aimed at, whose result is a list of entries below "d", a folder (so that it may also stand for what a copy brings).
"""

from __future__ import annotations

import random
from collections.abc import Callable

BLOCK = 512


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def binary(value: int, width: int) -> bytes:
    """A number in GNU's form, for what digits can't say: large ones and negative ones."""
    return bytes([value.to_bytes(width, "big", signed=True)[0] | 0x80]) + value.to_bytes(width, "big", signed=True)[1:]


def block(
    name: bytes, kind: bytes = b"0", size: int | bytes = 0, link: bytes = b"", mode: int = 0o644, uid: int | bytes = 0,
    mtime: int | bytes = 0, magic: bytes = b"ustar\x0000", prefix: bytes = b"",
) -> bytes:  # fmt: skip
    """One header."""
    fields = [
        name.ljust(100, b"\0")[:100], octal(mode, 8), uid if isinstance(uid, bytes) else octal(uid, 8), octal(0, 8),
        size if isinstance(size, bytes) else octal(size, 12) if size < 8**11 else binary(size, 12),
        mtime if isinstance(mtime, bytes) else octal(mtime, 12),
        b" " * 8, kind, link.ljust(100, b"\0")[:100], magic, bytes(80), prefix.ljust(155, b"\0"), bytes(12),
    ]  # fmt: skip
    return summed(b"".join(fields))


def summed(header: bytes) -> bytes:
    """A header with the checksum that it must have."""
    blank = header[:148] + b" " * 8 + header[156:BLOCK]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def entry(name: bytes, content: bytes = b"", kind: bytes = b"0", **fields: object) -> bytes:
    """A header with its content."""
    return block(name, kind, len(content), **fields) + content + bytes(-len(content) % BLOCK)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest + len(str(rest))))
    return b"%d %s=%s\n" % (length, key, value)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return entry(b"pax", records, kind)


TOP = entry(b"d/", kind=b"5", mode=0o755)
END = bytes(2 * BLOCK)
EVIL = b"evil"

CORPUS: dict[str, Callable[[bytes], list[bytes]]] = {
    "absolute": lambda out: [entry(out + b"/evil", EVIL)],
    "absolute, by pax": lambda out: [pax(record(b"path", out + b"/evil")), entry(b"d/x", EVIL)],
    "absolute, by a long name": lambda out: [entry(b"long", out + b"/evil\0", b"L"), entry(b"d/x", EVIL)],
    "absolute, by a prefix": lambda out: [
        entry(out.rpartition(b"/")[2] + b"/evil", EVIL, prefix=out.rpartition(b"/")[0]),
    ],
    "parent": lambda out: [entry(b"d/../../../../../../../../../.." + out + b"/evil", EVIL)],
    "parent at the top": lambda out: [entry(b"../outside/evil", EVIL)],
    "parent alone": lambda out: [entry(b"d/..", kind=b"5", mode=0o777), entry(b"..", kind=b"5", mode=0o777)],
    "a link to a folder, then through it": lambda out: [entry(b"d/l", kind=b"2", link=out), entry(b"d/l/evil", EVIL)],
    "links up, then through them": lambda out: [
        entry(b"d/a", kind=b"2", link=b"."), entry(b"d/b", kind=b"2", link=b"a/a/a/.."),
        entry(b"d/c", kind=b"2", link=b"b/.."), entry(b"d/c/outside/evil", EVIL), entry(b"d/b/outside/evil", EVIL),
    ],
    "a link to a file, then its content": lambda out: [
        entry(b"d/l", kind=b"2", link=out + b"/victim"), entry(b"d/l", EVIL, mode=0o4777),
    ],
    "a link, then a folder": lambda out: [
        entry(b"d/l", kind=b"2", link=out), entry(b"d/l/", kind=b"5", mode=0o777, mtime=1), entry(b"d/l/evil", EVIL),
    ],
    "links of /proc": lambda out: [
        entry(b"d/cwd", kind=b"2", link=b"/proc/self/cwd"), entry(b"d/cwd/evil", EVIL),
        entry(b"d/exe", kind=b"2", link=b"/proc/self/exe"), entry(b"d/exe", EVIL),
        entry(b"d/fd", kind=b"2", link=b"/proc/self/fd/3"), entry(b"d/fd/../evil", EVIL),
    ],
    "a hard link to outside": lambda out: [
        entry(b"d/h", kind=b"1", link=out + b"/victim"), entry(b"d/h", EVIL, mode=0o4777),
    ],
    "a hard link up": lambda out: [entry(b"d/h", kind=b"1", link=b"../outside/victim"), entry(b"d/h", EVIL)],
    "a hard link beside the top": lambda out: [entry(b"d/h", kind=b"1", link=b"outside/victim")],
    "a hard link through a link": lambda out: [
        entry(b"d/l", kind=b"2", link=out), entry(b"d/h", kind=b"1", link=b"d/l/victim"), entry(b"d/h", EVIL),
    ],
    "a hard link of a link": lambda out: [
        entry(b"d/s/", kind=b"5"), entry(b"d/s/l", kind=b"2", link=b"../.."), entry(b"d/h", kind=b"1", link=b"d/s/l"),
        entry(b"d/h/outside/evil", EVIL),
    ],
    "a hard link to a folder": lambda out: [entry(b"d/h", kind=b"1", link=b"d"), entry(b"d/h/evil", EVIL)],
    "a hard link to itself": lambda out: [entry(b"d/h", EVIL), entry(b"d/h", kind=b"1", link=b"d/h")],
    "devices": lambda out: [entry(b"d/disk", kind=b"4"), entry(b"d/mem", kind=b"3"), entry(b"d/mem", EVIL)],
    "a pipe": lambda out: [entry(b"d/p", kind=b"6"), entry(b"d/p", EVIL)],
    "the same name again": lambda out: [
        entry(b"d/x", b"1"), entry(b"d/x", b"2"), entry(b"d/x/", kind=b"5"), entry(b"d/x", kind=b"2", link=out),
        entry(b"d/x", b"3"), entry(b"d/x/", kind=b"5"), entry(b"d/x/y", EVIL), entry(b"d/x", EVIL),
    ],
    "a file below a file": lambda out: [entry(b"d/x", b"1"), entry(b"d/x/evil", EVIL)],
    "another top": lambda out: [entry(b"outside/evil", EVIL), entry(b"other", EVIL)],
    "a top that comes again": lambda out: [entry(b"d", EVIL), entry(b"d/x", EVIL), entry(b"d", kind=b"1", link=b"d/x")],
    "a top that is a link": lambda out: [entry(b"d", kind=b"2", link=out), entry(b"d/evil", EVIL)],
    "a huge size": lambda out: [block(b"d/x", size=octal(8**11 - 1, 12)) + EVIL],
    "a size beyond all": lambda out: [block(b"d/x", size=binary((1 << 80) - 1, 12)) + EVIL],
    "a negative size": lambda out: [block(b"d/x", size=binary(-512, 12)), entry(b"d/y", EVIL)],
    "a negative size, by pax": lambda out: [pax(record(b"size", b"-512")), entry(b"d/y", EVIL)],
    "a size that is no number": lambda out: [block(b"d/x", size=b"0x10_000000\0")],
    "a size in other digits": lambda out: [pax(record(b"size", "\N{ARABIC-INDIC DIGIT ONE}".encode())), entry(b"d/y")],
    "a size of a million digits": lambda out: [pax(record(b"size", b"9" * 1_000_000)), entry(b"d/y", EVIL)],
    "an endless extended header": lambda out: [block(b"pax", b"x", 1 << 32) + b"17 path=d/evil.x\n" * 100_000],
    "an endless long name": lambda out: [block(b"long", b"L", 1 << 32) + b"d/" * 1_000_000],
    "many extended headers": lambda out: [pax(record(b"path", b"d/x"))] * 10_000 + [entry(b"d/y", EVIL)],
    "many global headers": lambda out: [
        pax(record(b"GNU.sparse.%d" % number, b"x" * 4000), b"g") + entry(b"d/%d" % number) for number in range(300)
    ],
    "an extended header with wrong lengths": lambda out: [
        pax(b"99999999999999999999999 path=d/evil\n"), entry(b"d/x", EVIL),
    ],
    "an extended header of nothing": lambda out: [pax(b"0 \n"), pax(b"5 a=\n"), pax(b" =\n"), entry(b"d/x", EVIL)],
    "an extended header without an entry": lambda out: [pax(record(b"path", out + b"/evil"))],
    "a name with a NUL": lambda out: [pax(record(b"path", b"d/x\0/../../outside/evil")), entry(b"d/x", EVIL)],
    "a name that is no text": lambda out: [entry(b"d/\xff\xfe\x1b[2J", EVIL), entry(b"d/\xed\xa0\x80", EVIL)],
    "a name of a megabyte": lambda out: [pax(record(b"path", b"d/" + b"x" * 1_000_000)), entry(b"d/x", EVIL)],
    "a name of half a million folders": lambda out: [pax(record(b"path", b"d/" * 500_000 + b"x")), entry(b"d/x", EVIL)],
    "a thousand folders in one another": lambda out: [
        pax(record(b"path", b"d/" * depth)) + entry(b"d/", kind=b"5") for depth in range(1, 1001)
    ],
    "a link to nothing": lambda out: [entry(b"d/l", kind=b"2", link=b""), entry(b"d/l/evil", EVIL)],
    "no name": lambda out: [entry(b"", EVIL), entry(b"/", EVIL), entry(b"./", EVIL), entry(b"d//./", kind=b"5")],
    "an unknown kind": lambda out: [entry(b"d/x", EVIL, b"M"), entry(b"d/y", EVIL, b"Z")],
    "an owner beyond all": lambda out: [entry(b"d/x", EVIL, uid=binary(1 << 50, 8))],
    "an owner that nobody has": lambda out: [entry(b"d/x", EVIL, uid=binary(0xFFFFFFFE, 8))],
    "a time beyond all": lambda out: [
        entry(b"d/x", EVIL, mtime=binary(-(1 << 80), 12)), pax(record(b"mtime", b"-9" + b"9" * 30 + b".5")),
        entry(b"d/y", EVIL), pax(record(b"mtime", b"1e400")), entry(b"d/z", EVIL),
    ],
    "a sparse file larger than all disks": lambda out: [
        summed(block(b"d/x", b"S", 0, magic=b"ustar  \0")[:386] + bytes(97) + binary((1 << 62), 12) + bytes(17)),
    ],
    "a sparse file whose map has no end": lambda out: [
        summed(block(b"d/x", b"S", 0, magic=b"ustar  \0")[:386] + bytes(96) + b"\1" + octal(9, 12) + bytes(17)),
        *[(octal(1, 12) * 42 + b"\1").ljust(BLOCK, b"\0")] * 20_000,
    ],
    "a sparse file that contradicts itself": lambda out: [
        pax(record(b"GNU.sparse.map", b"0,4,2,4,-5,9") + record(b"GNU.sparse.size", b"4")), entry(b"d/x", EVIL),
    ],
    "a sparse map of a million lines": lambda out: [
        pax(b"".join(record(b"GNU.sparse." + key, value) for key, value in
                     ((b"major", b"1"), (b"minor", b"0"), (b"realsize", b"9")))),
        entry(b"d/x", b"1000000\n" + b"1\n" * 400_000),
    ],
    "a checksum that is wrong": lambda out: [block(b"d/x")[:148] + b"000000\0 " + block(b"d/x")[156:]],
    "noise": lambda out: [random.Random(1).randbytes(5000)],
}  # fmt: skip


def build(entries: list[bytes]) -> bytes:
    """The archive: a folder, and what is hostile."""
    return TOP + b"".join(entries) + END


def mutated(archive: bytes, chance: random.Random) -> bytes:
    """An archive with some of its bytes, fields or blocks changed; its checksums mostly right again."""
    data = bytearray(archive)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) // BLOCK) * BLOCK
        match chance.randrange(8):
            case 0:  # any byte
                data[chance.randrange(len(data))] = chance.randrange(256)
            case 1:  # a field of numbers
                start, width = chance.choice([(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (386, 12), (483, 12)])
                value = chance.choice([0, 1, 511, 512, 513, 1 << 20, 8 ** (width - 1) - 1, chance.randrange(1 << 40)])
                text = binary(chance.choice([value, -value]), width)
                if chance.randrange(2):
                    text = octal(value, 40)[-width:]
                data[at + start : at + start + width] = text
            case 2:  # the kind
                data[at + 156] = chance.choice(b"\x00012345678xgXLKSVMDZ")
            case 3:  # a name or a link
                start = chance.choice([0, 157, 345])
                name = chance.choice(
                    [b"/", b"..", b"d", b"d/a", b"d/../x", b"\xff\0", b"/etc/x", b"d/l/x", b"d/s/" * 25, b""]
                )
                data[at + start : at + start + 100] = name.ljust(100, b"\0")[:100]
            case 4:  # blocks that come again, elsewhere
                length = BLOCK * chance.randint(1, 4)
                data[at:at] = data[(there := chance.randrange(len(data) // BLOCK) * BLOCK) : there + length]
            case 5:
                del data[at : at + BLOCK * chance.randint(1, 3)]
            case 6:
                del data[chance.randrange(len(data)) :]
            case 7:  # a number in an extended header
                digits = [position for position, byte in enumerate(data) if 48 <= byte < 58]
                if digits:
                    data[chance.choice(digits)] = chance.choice(b"0123456789- .")
        if len(data) < BLOCK:
            return bytes(data)
        if chance.randrange(8):
            for start in range(0, len(data) - BLOCK + 1, BLOCK):
                if data[start + 257 : start + 262] == b"ustar":
                    data[start : start + BLOCK] = summed(bytes(data[start : start + BLOCK]))
    return bytes(data)
