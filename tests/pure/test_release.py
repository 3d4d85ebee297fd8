"""What is delivered: a wheel that lacks what was built, or has more than the package, is refused before it is tried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
try:
    import release
finally:
    sys.path.pop(0)

WHEEL = {*release.BUILT, "ctlab/__init__.py", "ctlab-1.2.dist-info/METADATA"}
SDIST = {f"ctlab-1.2/{name}" for name in release.SOURCES}


def test_a_whole_wheel_and_a_whole_sdist_pass() -> None:
    release.check_wheel(WHEEL, "1.2")
    release.check_sdist(SDIST, "1.2")


@pytest.mark.parametrize("name", release.BUILT)
def test_a_wheel_without_what_was_built_is_refused(name: str) -> None:
    with pytest.raises(release.Wrong, match=f"^the wheel lacks {name}$"):
        release.check_wheel(WHEEL - {name}, "1.2")


@pytest.mark.parametrize("name", ["tests/conftest.py", "ctlab-1.1.dist-info/METADATA", "ctlab_more.py"])
def test_a_wheel_with_more_than_the_package_is_refused(name: str) -> None:
    with pytest.raises(release.Wrong, match=f"more than the package: {name}$"):
        release.check_wheel(WHEEL | {name}, "1.2")


def test_an_sdist_that_would_have_to_build_is_refused() -> None:
    with pytest.raises(release.Wrong, match=r"^the sdist lacks ctlab/static/chart.js$"):
        release.check_sdist(SDIST - {"ctlab-1.2/ctlab/static/chart.js"}, "1.2")
