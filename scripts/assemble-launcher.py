"""Assemble the launcher for both processors and write ctlab/kernel/launcher_code.py; ``--check`` compares only.

Needs GNU as and objcopy for each (Debian: binutils, and binutils-aarch64-linux-gnu or binutils-x86-64-linux-gnu).
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "ctlab/kernel/machine_code"
RESULT = ROOT / "ctlab/kernel/launcher_code.py"
MACHINES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}

_HEAD = '''"""The launcher's bytes, made by scripts/assemble-launcher.py from machine_code/: not to be edited."""

from __future__ import annotations
'''


def assemble(machine: str) -> tuple[bytes, int]:
    """(The file, where `list_of_calls` begins in it.) Raises FileNotFoundError where there is no assembler for it."""
    prefix = "" if platform.machine() == machine else f"{MACHINES[machine]}-"
    with tempfile.TemporaryDirectory() as folder:
        made, file = Path(folder, "launcher.o"), Path(folder, "launcher")
        subprocess.run([f"{prefix}as", "-o", made, SOURCES / f"{machine}.S"], check=True)
        subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", made, file], check=True)
        symbols = subprocess.run([f"{prefix}nm", made], check=True, capture_output=True, text=True).stdout
        places = {line.split()[2]: int(line.split()[0], 16) for line in symbols.splitlines()}
        return file.read_bytes(), places["list_of_calls"]


def text() -> str:
    """The module as it should be."""
    parts = [_HEAD]
    offsets = {}
    for machine in MACHINES:
        code, offsets[machine] = assemble(machine)
        words = code.hex()
        lines = [f'    "{words[start : start + 112]}"' for start in range(0, len(words), 112)]
        parts.append(f"_{machine.upper()} = (\n" + "\n".join(lines) + "\n)\n")
    parts.append("# Processor, as uname(2) says it -> the file.\nCODE = {\n")
    parts[-1] += "".join(f'    "{machine}": _{machine.upper()},\n' for machine in MACHINES) + "}\n"
    parts[-1] += "# The same -> where the function `list_of_calls` begins in the file.\nLIST_OF_CALLS = {\n"
    parts[-1] += "".join(f'    "{machine}": {offset},\n' for machine, offset in offsets.items()) + "}\n"
    return "\n".join(parts)


def main() -> int:
    """As a program."""
    made = text()
    if "--check" in sys.argv:
        if RESULT.read_text() == made:
            return 0
        print(f"{RESULT} isn't what its source gives: run {sys.argv[0]}")
        return 1
    RESULT.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
