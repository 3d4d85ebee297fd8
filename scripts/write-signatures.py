"""Write the signatures that come from the table of options between their two marks; with --check only compare."""

from __future__ import annotations

import sys
from pathlib import Path

from ctlab.ask import python

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "    # -- written by scripts/write-signatures.py from ctlab/ask\n"
END = "        # -- end of what is written\n"  # within the function, where a formatter leaves it


def run() -> str:
    """`Lab.run`, whose last parameter makes checkers refuse what the table doesn't have."""
    lines = [f"        {parameter},\n" for parameter in python.parameters(python.RUN)]
    return (
        "    def run(\n        self,\n        command: str | Sequence[str] | None = None,\n        *,\n"
        + "".join(lines)
        + "        **unknown: Never,\n    ) -> Any:\n"
    )


def main() -> int:
    """Whether all is as it should be: 0, or 1 with --check."""
    path = ROOT / "ctlab" / "lab.py"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}{run()}{END}{after}"
    if "--check" in sys.argv[1:]:
        if wanted != text:
            print("ctlab/lab.py isn't what the table says: scripts/write-signatures.py")
        return int(wanted != text)
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
