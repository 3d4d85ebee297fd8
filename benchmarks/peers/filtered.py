"""A process below a filter of system calls, which makes one call over and over; and one that loads filters."""

from __future__ import annotations

import base64
import ctypes
import mmap
import os
import struct
import time

from benchmarks.peers.worker import Missing, serve
from ctlab.kernel import seccomp, syscalls

# long repeat(number, first, second, third, times): a call in a loop, without an interpreter around each.
_LOOP = {
    "x86_64": """
        53        push rbx
        41 54     push r12
        48 89 fb  mov  rbx, rdi
        4d 89 c4  mov  r12, r8
        48 89 f7  mov  rdi, rsi
        48 89 d6  mov  rsi, rdx
        48 89 ca  mov  rdx, rcx
        48 89 d8  mov  rax, rbx   ; again:
        0f 05     syscall
        49 ff cc  dec  r12
        75 f3     jnz  again
        41 5c     pop  r12
        5b        pop  rbx
        c3        ret
    """,
}


def _code(text: str) -> bytes:
    """The bytes of a listing: on each line those before the first word that isn't two hexadecimal digits."""
    found = b""
    for line in text.strip().splitlines():
        for word in line.split():
            if len(word) != 2:
                break
            found += bytes.fromhex(word)
    return found


class Filtered:
    """Bare until `load`."""

    def __init__(self) -> None:
        listing = _LOOP.get(os.uname().machine)
        if listing is None:
            raise Missing(f"the loop is written for {', '.join(_LOOP)}")
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_code(listing))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._repeat = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_ulong] * 5)(address)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)

    def about(self) -> dict[str, str]:
        return {"version": os.uname().release}

    def load(self, programs: list[str]) -> None:
        """Filters (base64), in this order, for good."""
        for program in programs:
            seccomp.install(base64.b64decode(program))

    def calls(self, number: int, arguments: list[int], times: int, count: int) -> list[float]:
        """Seconds of one call, the mean of `times` in a row; `count` such samples."""
        taken = []
        for _ in range(count):
            begin = time.perf_counter()
            self._repeat(number, *arguments, times)
            taken.append((time.perf_counter() - begin) / times)
        return taken

    def loads(self, program: str, count: int) -> list[float]:
        """Seconds that loading a filter takes, each in a process of its own."""
        data = base64.b64decode(program)
        taken = []
        for _ in range(count):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                begin = time.perf_counter()
                seccomp.install(data)
                os.write(writer, struct.pack("d", time.perf_counter() - begin))
                os._exit(0)
            os.close(writer)
            taken += struct.unpack("d", os.read(reader, 8))
            os.close(reader)
            os.waitpid(pid, 0)
        return taken

    def close(self) -> None:
        """Nothing outlives the process."""


if __name__ == "__main__":
    serve(Filtered)
