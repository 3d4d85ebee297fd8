"""Build the wheel and the sdist into dist/, and try the wheel by itself: in a fresh environment, away from this folder.

Usage: make release. What is wrong is one line, and the status 1; dist/ has nothing then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
BUILT = ("ctlab/static/topology.js", "ctlab/static/chart.js", "ctlab/recordings/sample.json.gz", "ctlab/py.typed")
SOURCES = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "js/package-lock.json", *BUILT)
# What a stranger sees of a lab where none can run; it draws and reads all that comes with the package.
RECORDED = """
import ctlab
run = ctlab.sample_run()
assert run.topology().svg and len(run.stats(last=None)) and run.chart().data
"""


class Wrong(Exception):
    """What was built isn't what is to be delivered; the text is one line."""


def check_wheel(names: Iterable[str], version: str) -> None:
    """A wheel has the package with what was built for it, what says what it is, and nothing else. Raises Wrong."""
    names = set(names)
    if lacking := [name for name in BUILT if name not in names]:
        raise Wrong(f"the wheel lacks {', '.join(lacking)}")
    if foreign := sorted(name for name in names if not name.startswith(("ctlab/", f"ctlab-{version}.dist-info/"))):
        raise Wrong(f"the wheel has more than the package: {', '.join(foreign[:3])}")


def check_sdist(names: Iterable[str], version: str) -> None:
    """An sdist has what a wheel is built from without Node.js, below one folder. Raises Wrong."""
    names = set(names)
    if lacking := [name for name in SOURCES if f"ctlab-{version}/{name}" not in names]:
        raise Wrong(f"the sdist lacks {', '.join(lacking)}")


def run(*command: str | Path, folder: Path, what: str) -> None:
    """Run one step with nothing of this folder; Wrong, after what it printed, if it fails."""
    print(f"- {what}", flush=True)
    if (status := subprocess.run(command, cwd=folder, env=apart()).returncode) != 0:
        raise Wrong(f"{what}: status {status}")


def apart() -> dict[str, str]:
    """The environment without what leads Python back to this folder, whose package would be tried instead."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def built(folder: Path) -> tuple[Path, str]:
    """The wheel in `folder`, which was checked as the sdist was, and its version."""
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        check_wheel(archive.namelist(), version)
    with tarfile.open(sdist) as source:
        check_sdist(source.getnames(), version)
    return wheel, version


def try_wheel(wheel: Path, version: str, folder: Path) -> None:
    """Install the wheel as a stranger does, into `folder`, and run there what a stranger runs first."""
    python = folder / "venv/bin/python"
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder, what="a fresh environment")
    run(python, "-m", "pip", "install", "-q", wheel, folder=folder, what=f"pip install {wheel.name}")
    said = f"import ctlab; assert ctlab.__version__ == {version!r} and {str(folder)!r} in ctlab.__file__"
    run(python, "-c", said, folder=folder, what="import ctlab")
    run(python, "-c", RECORDED, folder=folder, what="the recorded lab")
    doctor = subprocess.run([python, "-m", "ctlab", "doctor"], cwd=folder, env=apart(), stdout=subprocess.DEVNULL)
    if doctor.returncode != 0:
        print("- no demo: no lab can run here (python -m ctlab doctor says why)")
        return
    run(python, "-m", "pip", "install", "-q", f"{wheel}[notebooks]", folder=folder, what="what notebooks need")
    for name in ("scripts/demo.py", "notebooks/01-quickstart.ipynb"):
        (folder / name).parent.mkdir()
        shutil.copy2(ROOT / name, folder / name)
    run(python, "scripts/demo.py", folder=folder, what="the demo")


def main() -> int:
    """Returns 0 once dist/ has both files, tried."""
    shutil.rmtree(DIST, ignore_errors=True)
    # Not below /tmp, which may be small: an environment with notebooks has half a gigabyte.
    with tempfile.TemporaryDirectory(prefix="ctlab-release-", dir="/var/tmp") as name:
        folder = Path(name)
        try:
            run(sys.executable, "-m", "build", "-q", "--outdir", folder / "dist", ROOT, folder=folder, what="build")
            wheel, version = built(folder / "dist")
            try_wheel(wheel, version, folder)
        except Wrong as error:
            print(error, file=sys.stderr)
            return 1
        shutil.copytree(folder / "dist", DIST)
    for path in sorted(DIST.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
