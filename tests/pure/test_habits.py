"""What one place of the project says of another: the version, the hooks, the pictures made from the recording."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ctlab
from ctlab.kernel import probe_remedies

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_version_stands_in_one_place() -> None:
    made = project()
    assert "version" not in made["project"] and made["project"]["dynamic"] == ["version"]
    source = (ROOT / made["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [ctlab.__version__]


def test_the_hooks_before_a_commit_are_what_lint_runs_and_fetch_nothing() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"- repo: (.+)", text) == ["local"] and "//" not in text
    assert set(re.findall(r"language: (.+)", text)) == {"system"}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    ran = [line.partition(")/")[2].removesuffix(" .") for line in lint.splitlines()[1:]]
    hooks = [entry.removesuffix(" --force-exclude") for entry in re.findall(r"entry: \.venv/bin/(.+)", text)]
    assert hooks == ran


def test_the_readmes_pictures_are_what_is_drawn_today() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, svg in runpy.run_path(str(ROOT / "scripts/draw-sample.py"))["pictures"]().items():
        assert ElementTree.fromstring(svg).attrib["width"]  # a file by itself: not only a page's inner part
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == svg, "run scripts/draw-sample.py, then look at it"
        assert f"](docs/{name})" in readme


def test_what_the_readme_requires_is_what_the_package_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    python = project()["project"]["requires-python"].removeprefix(">=")
    kernel = re.findall(r"needs Linux ([\d.]+)", Path(probe_remedies.__file__).read_text(encoding="utf-8"))
    processors = sorted(path.stem for path in (ROOT / "ctlab/kernel/machine_code").glob("*.S"))
    required = " ".join(readme.partition("\nRequired: ")[2].partition("\n\n")[0].split())
    assert f"Python {python} or newer" in required and f"Linux {max(kernel)} or newer" in required
    assert all(processor in required for processor in processors)
    assert set(re.findall(r"dist/ctlab-(\d[\d.]*\d)", readme)) == {ctlab.__version__}
