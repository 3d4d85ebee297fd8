"""Pseudo-terminals for a container's programs: always of its own devpts, so that nothing of this machine's gets inside.

Lean: see `kernel.lean`.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from . import program

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_IUTF8 = 0x4000  # a character is erased whole, however many bytes it has (asm-generic/termbits.h)
_WINDOW = struct.Struct("=4H")  # struct winsize: rows, columns, and a size in pixels that nobody uses
LARGEST_SIDE = 0xFFFF


def raw_pairs() -> tuple[list[int], tuple[int, int]]:
    """Two terminals that change nothing of what is written to them: (masters, (stdout, stderr))."""
    masters, slaves = [], []
    for _ in range(2):
        master, slave = _pair()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        attributes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        masters.append(master)
        slaves.append(slave)
    return masters, (slaves[0], slaves[1])


def persons_pair(rows: int, columns: int) -> tuple[int, int]:
    """One as a person has it (it echoes, edits lines, makes signals of keys), of that size: (master, slave)."""
    master, slave = _pair()
    attributes = termios.tcgetattr(slave)
    attributes[0] |= _IUTF8
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    resize(slave, rows, columns)
    return master, slave


def resize(descriptor: int, rows: int, columns: int) -> None:
    """Give a terminal, by either end, another size; what runs in front of it gets SIGWINCH."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, _WINDOW.pack(rows, columns, 0, 0))


def _pair() -> tuple[int, int]:
    """The slave is opened by its master (TIOCGPTPEER): no path is followed that an image could have replaced."""
    master = program.open_path("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    return master, int(fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
