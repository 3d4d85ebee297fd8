"""Tar streams, read and written piece by piece: files between this machine and containers, and image archives.

The reader is for streams that somebody hostile has made. Nothing of them is believed: each number is checked before it
is used, and what has to be held in memory at once (a header with its extended names, a piece of content) is bounded
by the constants here, whatever the stream says. Names are bytes, as the kernel has them, and are never decoded.

Read: ustar, pax (POSIX.1-2001), GNU's long names and its sparse files (old format, pax 0.1 and 1.0). Written: pax.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
PIECE_BYTES = 1 << 20  # content is handed on in pieces of at most this
_EXTENDED_MOST = 1 << 20  # bytes of one extended header or long name; a path of Linux has at most 4,096
_EXTENDED_IN_A_ROW = 16
_SPARSE_MOST = 100_000  # pieces of one sparse file
_LARGEST = (1 << 63) - 1
_DIGITS_MOST = 24  # of a number in a pax header
_SECONDS_MOST = 1 << 40  # of a time stamp, either way: more than a file system keeps

FILE, FOLDER, LINK, HARD_LINK, PIPE, DEVICE = "file", "folder", "link", "hard link", "pipe", "device"
_KINDS = {
    b"\0": FILE, b"0": FILE, b"7": FILE, b"S": FILE, b"1": HARD_LINK, b"2": LINK,
    b"3": DEVICE, b"4": DEVICE, b"5": FOLDER, b"6": PIPE,
}  # fmt: skip
_KEYS = {b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"} | {
    b"GNU.sparse." + key for key in (b"major", b"minor", b"name", b"realsize", b"map", b"size", b"offset", b"numbytes")
}
_TYPES = {FILE: b"0", HARD_LINK: b"1", LINK: b"2", FOLDER: b"5", PIPE: b"6"}


class ArchiveError(Exception):
    """What came isn't a tar archive that can be used; the text is half a line."""


class Source(Protocol):
    """Where a stream comes from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end."""


class Member(NamedTuple):
    """One entry. `size` is the file's, in bytes; `pieces`: (offset, bytes) of what a sparse file has, else None."""

    name: bytes
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    pieces: tuple[tuple[int, int], ...] | None = None


def shown(name: bytes) -> str:
    """A name for an error: quoted, on one line, never long."""
    text = repr(os.fsdecode(name[:100]))
    return text if len(name) <= 100 else f"{text[:-1]}…{text[-1]}"


class Reader:
    """The members of a stream, in order; `content` is that of the member which came last."""

    def __init__(self, source: Source, *, cut_is_end: bool = False) -> None:
        """`cut_is_end`: a stream that ends between two entries, without a mark, is whole (some tools write none)."""
        self._source = source
        self._cut_is_end = cut_is_end
        self._left = 0  # bytes of the last member's content that are still to be read, with their padding
        self._member: Member | None = None
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        begun = False
        while (member := self._next(begun)) is not None:
            begun = True
            yield member

    def content(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, bytes), in pieces."""
        member = self._member
        assert member is not None
        self._member = None
        for offset, length in member.pieces if member.pieces is not None else ((0, member.size),):
            end = offset + length
            while offset < end:
                piece = self._source.read(min(end - offset, PIECE_BYTES))
                if not piece:
                    raise ArchiveError(f"it ends in the middle of {shown(member.name)}")
                self._left -= len(piece)
                yield offset, piece
                offset += len(piece)

    # -- headers ------------------------------------------------------------------------------------
    def _next(self, begun: bool) -> Member | None:
        self._skip()
        extended: dict[bytes, bytes] = {}
        for _ in range(_EXTENDED_IN_A_ROW):
            block = self._source.read(BLOCK)
            if not block and (not begun or self._cut_is_end):
                if not begun:
                    raise ArchiveError("it is empty")
                if not extended:
                    return None
            if len(block) < BLOCK:
                raise ArchiveError("it ends in the middle")
            if not any(block):
                if extended:
                    raise ArchiveError("an extended header belongs to nothing")
                return None
            _check_sum(block)
            kind, size = block[156:157], _number(block[124:136], "size")
            if kind in (b"x", b"X"):
                extended |= _records(self._metadata(size))
            elif kind == b"g":
                self._global |= _records(self._metadata(size))
            elif kind == b"L":
                extended[b"path"] = self._metadata(size).partition(b"\0")[0]
            elif kind == b"K":
                extended[b"linkpath"] = self._metadata(size).partition(b"\0")[0]
            elif kind == b"V":  # the label of a tape
                self._left = _padded(size)
                self._skip()
            else:
                self._member = self._made(block, kind, size, self._global | extended)
                return self._member
        raise ArchiveError(f"more than {_EXTENDED_IN_A_ROW} extended headers in a row")

    def _made(self, block: bytes, kind: bytes, size: int, extended: dict[bytes, bytes]) -> Member:
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345]:
            name = block[345:500].partition(b"\0")[0] + b"/" + name
        name = extended.get(b"path", name)
        link = extended.get(b"linkpath", block[157:257].partition(b"\0")[0])
        if b"size" in extended:
            size = _decimal(extended[b"size"], "size")
        what = _KINDS.get(kind)
        if what is None:
            raise ArchiveError(f"entry {shown(name)} is of an unknown kind ({kind!r})")
        if what == FILE and name.endswith(b"/"):
            what = FOLDER  # as archives from before 1988 have it
        if what != FILE:
            size = 0  # what others say of a size is no content
        self._left = _padded(size)
        pieces = None
        if what == FILE and kind == b"S":
            pieces, size = self._old_sparse(block, size)
        elif what == FILE and (b"GNU.sparse.major" in extended or b"GNU.sparse.map" in extended):
            name = extended.get(b"GNU.sparse.name", name)
            pieces, size = self._pax_sparse(extended, size)
        elif b"GNU.sparse.size" in extended or b"GNU.sparse.offset" in extended:  # 0.0
            raise ArchiveError(f"entry {shown(name)} is a sparse file in a format that isn't read")
        if not name or b"\0" in name or b"\0" in link:
            raise ArchiveError(f"entry {shown(name)} has no name that a file can have")
        return Member(
            name, what, _number(block[100:108], "mode") & 0o7777,
            _id(extended.get(b"uid"), block[108:116]), _id(extended.get(b"gid"), block[116:124]),
            size, _time(extended.get(b"mtime"), block[136:148]), link, pieces,
        )  # fmt: skip

    def _metadata(self, size: int) -> bytes:
        if size > _EXTENDED_MOST:
            raise ArchiveError(f"an extended header of {size} bytes")
        data = self._source.read(_padded(size))
        if len(data) < _padded(size):
            raise ArchiveError("it ends in the middle of an extended header")
        return data[:size]

    def _skip(self) -> None:
        while self._left:
            piece = self._source.read(min(self._left, PIECE_BYTES))
            if not piece:
                raise ArchiveError("it ends in the middle")
            self._left -= len(piece)

    # -- sparse files -------------------------------------------------------------------------------
    def _old_sparse(self, block: bytes, stored: int) -> tuple[tuple[tuple[int, int], ...], int]:
        numbers: list[int] = []
        _sparse_numbers(block[386:482], numbers)
        more, real = block[482], _number(block[483:495], "size")
        while more:
            block = self._source.read(BLOCK)
            if len(block) < BLOCK or len(numbers) > 2 * _SPARSE_MOST:
                raise ArchiveError("the map of a sparse file has no end")
            _sparse_numbers(block[:504], numbers)
            more = block[504]
        return _sparse_map(numbers, real, stored), real

    def _pax_sparse(self, extended: dict[bytes, bytes], stored: int) -> tuple[tuple[tuple[int, int], ...], int]:
        if b"GNU.sparse.map" in extended:  # 0.1
            numbers = [_decimal(text, "map") for text in extended[b"GNU.sparse.map"].split(b",")]
            real = _decimal(extended.get(b"GNU.sparse.size", b""), "size")
            return _sparse_map(numbers, real, stored), real
        if (extended[b"GNU.sparse.major"], extended.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise ArchiveError("a sparse file in a format that isn't read")
        lines: list[bytes] = []
        rest, wanted = b"", 1
        while len(lines) < wanted:
            block = self._source.read(BLOCK) if self._left >= BLOCK else b""
            if len(block) < BLOCK:
                raise ArchiveError("the map of a sparse file has no end")
            self._left -= BLOCK
            stored -= BLOCK
            *whole, rest = (rest + block).split(b"\n")
            lines += whole
            if len(rest) > BLOCK:
                raise ArchiveError("the map of a sparse file has no numbers")
            if lines and wanted == 1:
                wanted = 1 + 2 * _decimal(lines[0], "map")
                if wanted > 2 * _SPARSE_MOST:
                    raise ArchiveError(f"a sparse file of more than {_SPARSE_MOST} pieces")
        real = _decimal(extended.get(b"GNU.sparse.realsize", b""), "size")
        return _sparse_map([_decimal(line, "map") for line in lines[1:wanted]], real, stored), real


def _sparse_numbers(fields: bytes, into: list[int]) -> None:
    for at in range(0, len(fields), 24):
        if fields[at] == 0:
            return
        into += [_number(fields[at : at + 12], "map"), _number(fields[at + 12 : at + 24], "map")]


def _sparse_map(numbers: list[int], real: int, stored: int) -> tuple[tuple[int, int], ...]:
    pieces = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pieces:
        if offset < end or length > real - offset:
            raise ArchiveError("the map of a sparse file contradicts itself")
        end = offset + length
    if len(numbers) % 2 or len(pieces) > _SPARSE_MOST or sum(length for _, length in pieces) != stored:
        raise ArchiveError("the map of a sparse file contradicts itself")
    return pieces


# -- fields -------------------------------------------------------------------------------------------
def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_sum(block: bytes) -> None:
    said = _number(block[148:156], "checksum")
    found = sum(block) - sum(block[148:156]) + 8 * 32
    if said != found and said != found - 256 * sum(
        byte > 127 for byte in block[:148] + block[156:]
    ):  # some have summed up signed bytes
        raise ArchiveError("a header's checksum is wrong")


def _number(field: bytes, what: str) -> int:
    """Octal digits; or, for what they can't say, two's complement with the first bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True) if field[0] & 0x40 else int.from_bytes(field, "big")
        value = value if value < 0 else value - (0x80 << 8 * (len(field) - 1))
    else:
        text = field.partition(b"\0")[0].strip(b" ")
        if text.strip(b"01234567"):
            raise ArchiveError(f"a header's {what} is no number")
        value = int(text, 8) if text else 0
    if not 0 <= value <= _LARGEST and what != "time":
        raise ArchiveError(f"a header's {what} is out of range")
    return value


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > _DIGITS_MOST or int(text) > _LARGEST:
        raise ArchiveError(f"an extended header's {what} is out of range")
    return int(text)


def _id(extended: bytes | None, field: bytes) -> int:
    value = _number(field, "owner") if extended is None else _decimal(extended, "owner")
    if value > 0xFFFFFFFE:
        raise ArchiveError("an owner is out of range")
    return value


def _time(extended: bytes | None, field: bytes) -> int:
    """Nanoseconds since 1970."""
    if extended is None:
        seconds, fraction = _number(field, "time"), 0
    else:
        sign = -1 if extended.startswith(b"-") else 1
        whole, _, part = extended.removeprefix(b"-").partition(b".")
        if not (whole or part) or (whole + part).strip(b"0123456789") or len(extended) > 2 * _DIGITS_MOST:
            raise ArchiveError("an extended header's time is no number")
        seconds, fraction = sign * int(whole or b"0"), sign * int((part + b"0" * 9)[:9])
    return max(-_SECONDS_MOST, min(_SECONDS_MOST, seconds)) * 10**9 + fraction


def _records(data: bytes) -> dict[bytes, bytes]:
    r"""The records of a pax header that we know; each is "LENGTH KEY=VALUE\n"."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        number, space, _ = data[at : at + _DIGITS_MOST].partition(b" ")
        end = at + (int(number) if number.isdigit() and space else 0)
        key, equals, value = data[at + len(number) + 1 : end - 1].partition(b"=")
        if not at + len(number) + 3 <= end <= len(data) or data[end - 1] != 10 or not equals:
            raise ArchiveError("an extended header is damaged")
        if key in _KEYS:
            found[key] = value
        at = end
    return {key: value for key, value in found.items() if value}  # an empty one takes back what was said


# -- writing ------------------------------------------------------------------------------------------
END = bytes(2 * BLOCK)


def padding(size: int) -> bytes:
    """What follows content of so many bytes."""
    return bytes(-size % BLOCK)


def header(member: Member) -> bytes:
    """The header of an entry, with an extended one before it where it needs one."""
    records: list[tuple[bytes, bytes]] = []
    seconds, fraction = divmod(member.mtime_ns, 10**9)
    for key, text in ((b"path", member.name), (b"linkpath", member.link)):
        if len(text) > 100 or not text.isascii():
            records.append((key, text))
    if fraction or not 0 <= seconds < 8**11:
        sign, whole = (b"-", -member.mtime_ns) if member.mtime_ns < 0 else (b"", member.mtime_ns)
        records.append((b"mtime", b"%s%d.%09d" % (sign, whole // 10**9, whole % 10**9)))
        seconds = min(max(seconds, 0), 8**11 - 1)
    numbers = {b"uid": member.uid, b"gid": member.gid, b"size": member.size}
    fitting = dict(numbers)
    for key, value in numbers.items():
        if value >= (8**11 if key == b"size" else 8**7):
            records.append((key, b"%d" % value))
            fitting[key] = 0
    first = b""
    if records:
        if not all(_is_utf8(value) for _, value in records):
            records.insert(0, (b"hdrcharset", b"BINARY"))
        body = b"".join(_record(key, value) for key, value in records)
        first = _block(b"././@PaxHeader", b"x", 0o644, 0, 0, len(body), 0, b"") + body + padding(len(body))
    return first + _block(
        member.name[:100], _TYPES[member.kind], member.mode, fitting[b"uid"], fitting[b"gid"], fitting[b"size"],
        seconds, member.link[:100],
    )  # fmt: skip


def _block(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, seconds: int, link: bytes) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, uid, gid, size, seconds)
    start = name.ljust(100, b"\0") + numbers
    end = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(247)
    return b"%s%06o\0 %s" % (start, sum(start) + sum(end) + 8 * 32, end)


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3  # the space, the equals sign, the end of line
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
