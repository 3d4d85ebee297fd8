"""Draw the README's pictures, docs/sample-map.svg and docs/sample-chart.svg, from the recording in the package.

Usage: .venv/bin/python scripts/draw-sample.py [FOLDER]. A test looks that they are what the code draws today.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctlab
from ctlab.notebook.chart_svg import chart_svg

FOLDER = Path(__file__).resolve().parent.parent / "docs"


def pictures() -> dict[str, str]:
    """The files' names, and what is in them."""
    run = ctlab.sample_run()
    _, picture = run._picture(None, None)
    drawn = {
        "sample-map.svg": run.topology().svg,
        "sample-chart.svg": chart_svg(picture.lines(), colours=picture.colours),
    }
    # By itself a picture has the light colours, which need a light page: a dark one would shine through.
    return {name: svg.replace("<svg ", '<svg style="background:#fff" ', 1) + "\n" for name, svg in drawn.items()}


def main() -> int:
    """Returns 0 once they are written."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    for name, svg in pictures().items():
        (folder / name).write_text(svg, encoding="utf-8")
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
