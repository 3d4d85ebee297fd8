"""Build the site into out/site: the pages, the quickstart with what it puts out, the reference from docstrings.

Usage: make docs. Every warning of Sphinx is an error. The quickstart is run for real, once: what it put out is kept in
out/ until it or the package changes.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import shutil
import sys
from pathlib import Path

import demo
import nbformat
from sphinx.cmd.build import build_main

import ctlab

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"
SOURCE, SITE, RAN = OUT / "site-source", OUT / "site", OUT / "site-quickstart.ipynb"
# What stands beside README.md in the clone stands there in the site's sources, so that links lead to the same.
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.*")),
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONTENTS = """
```{{toctree}}
:caption: {caption}
:maxdepth: 1
{pages}
```
"""
# What a saved page has no use for: views of widgets whose state isn't in it (the picture beside them is shown).
LIVE = "application/vnd."


def state() -> str:
    """What an executed notebook depends on: the notebook, and the package."""
    total = hashlib.sha256(demo.NOTEBOOK.read_bytes())
    for path in sorted((ROOT / "ctlab").rglob("*.py")):
        total.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def quickstart() -> nbformat.NotebookNode:
    """The executed quickstart; it ends the program if a cell fails."""
    now = state()
    if RAN.exists() and (kept := nbformat.read(RAN, as_version=4)).metadata.get("ran_with") == now:
        return kept
    made, failed = demo.run()
    if failed is not None:
        sys.exit(f"the quickstart's page can't be made, a cell failed: {failed.ename}: {failed.evalue}")
    for cell in made.cells:
        cell.get("metadata", {}).pop("execution", None)
        for output in cell.get("outputs", ()):
            for kind in [kind for kind in output.get("data", ()) if kind.startswith(LIVE)]:
                del output["data"][kind]
    made.metadata["ran_with"] = now
    nbformat.write(made, RAN)
    return made


def reference() -> str:
    """The page of all public names: classes with their methods, functions, errors."""
    parts = ["# Reference", "All of this is in `ctlab` itself; what else the package has is its own affair."]
    names = [name for name in dir(ctlab) if not name.startswith("_")]
    found = {name: getattr(ctlab, name) for name in names}
    for title, chosen in (
        ("Classes", [n for n in names if inspect.isclass(found[n]) and not issubclass(found[n], Exception)]),
        ("Functions", [n for n in names if not inspect.isclass(found[n])]),
        ("Errors", [n for n in names if inspect.isclass(found[n]) and issubclass(found[n], Exception)]),
    ):
        parts.append(f"## {title}")
        for name in chosen:
            kind = "autofunction" if not inspect.isclass(found[name]) else "autoclass"
            members = "\n   :members:" if title == "Classes" else ""
            parts.append(f"```{{eval-rst}}\n.. {kind}:: ctlab.{name}{members}\n```")
    return "\n\n".join(parts) + "\n"


def collect() -> None:
    """Put the site's sources together, in the clone's own order of folders."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for page in PAGES:
        (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / page, SOURCE / page)
    (SOURCE / "notebooks").mkdir()
    for path in NOTEBOOKS:
        if path != demo.NOTEBOOK:
            shutil.copy2(path, SOURCE / "notebooks")
    nbformat.write(quickstart(), SOURCE / "notebooks" / demo.NOTEBOOK.name)
    (SOURCE / "reference.md").write_text(reference(), encoding="utf-8")
    # The one link that leads to a folder of the clone, where there is no page.
    text = re.sub(r"\[([^]]+)\]\([\w/]+/\)", r"\1", (ROOT / "README.md").read_text(encoding="utf-8"))
    books = [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    pages = [page.removesuffix(".md") for page in PAGES if page.endswith(".md")]
    text += CONTENTS.format(caption="Notebooks", pages="\n".join(books))
    text += CONTENTS.format(caption="Pages", pages="\n".join(["reference", *sorted(pages, key=str.lower)]))
    (SOURCE / "index.md").write_text(text, encoding="utf-8")


def main() -> int:
    """Returns 0 once the site is there."""
    OUT.mkdir(exist_ok=True)
    collect()
    shutil.rmtree(SITE, ignore_errors=True)
    options = ["-q", "-E", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), "-d", str(OUT / "site-cache")]
    status = build_main([*options, str(SOURCE), str(SITE)])
    if status == 0:
        print(f"the site: {SITE / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
