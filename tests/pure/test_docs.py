"""What the pages name is there, and what is there is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ctlab
from ctlab.notebook import magics
from ctlab.runtime import system_copy, system_read

ROOT = Path(__file__).parents[2]
PACKAGE = Path(ctlab.__file__).parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SURFACE = (ROOT / "docs" / "surface.md").read_text(encoding="utf-8")
BUILT = {"static", "__pycache__"}


def rooms() -> list[list[str]]:
    """The rows of the table of rooms."""
    table = ARCHITECTURE.partition("| room |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_room_and_file_in_the_table_is_there() -> None:
    names = re.findall(r"[\w/]+(?:\.py|/)(?![\w.])", " ".join(row[0] for row in rooms()))
    assert len(names) > 30
    assert [name for name in names if not ((PACKAGE / name).exists() or (ROOT / name).exists())] == []


def test_every_room_is_in_the_table() -> None:
    named = {name for row in rooms() for name in re.findall(r"(\w+)/", row[0])}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - BUILT <= named


def test_the_files_that_are_named_of_the_vm_are_there() -> None:
    [row] = [row for row in rooms() if "`vm/`" in row[0]]
    listed = re.findall(r"`(\w+)`", row[1])
    assert len(listed) > 10
    assert [name for name in listed if not (PACKAGE / "vm" / f"{name}.py").exists()] == []


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING, SURFACE], ids=["architecture", "contributing", "surface"])
def test_paths_in_the_text_lead_somewhere(page: str) -> None:
    found = set(re.findall(r"`((?:[a-z_]+/)+[\w-]+\.\w+)`", page))
    lost = [path for path in found if not ((PACKAGE / path).exists() or (ROOT / path).exists())]
    assert found and lost == []


def test_what_a_walk_names_is_in_the_files_that_it_names() -> None:
    steps = re.findall(r"^\d\. .*\n(?: {3}.*\n)*", CONTRIBUTING, re.M)
    assert len(steps) > 20
    lost = []
    for step in steps:
        files = [ROOT / path for path in re.findall(r"`((?:\w+/)+[\w-]+\.py)`", step)]
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        names = re.findall(r"`(\w*[A-Z_]\w*)`", step)
        lost += [(step, name) for name in names if not re.search(rf"\b{name}\b", text)]
    assert lost == []


def test_settings_and_names_of_the_package_are_those_that_the_page_has() -> None:
    settings, names = re.findall(r"CtlabMagics\.(\w+)", SURFACE), re.findall(r"ctlab\.(\w+)\(", SURFACE)
    assert settings and names
    for name in settings:
        assert magics.CtlabMagics.class_own_traits(config=True)[name]
    for name in names:
        assert callable(getattr(ctlab, name))


def test_every_page_is_in_the_readmes_list() -> None:
    listed = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is here")[2]
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in listed] == []


def test_the_pages_say_of_the_image_system_what_the_code_says() -> None:
    bounds = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
    pages, most = f"{system_read.MOST_PAGES:,} pages of memory", f"{system_read.MOST_BYTES >> 20} MiB"
    for page in (bounds, SURFACE):
        assert pages in page and most in page
    copy = int(re.findall(r"nr_blocks=(\d+)", system_copy._SIZE)[0])
    said = f"{copy:,} pages of its own, once a lab: at most {copy >> 8} MiB where a page has 4 KiB, {copy >> 4:,} MiB "
    assert said in bounds
