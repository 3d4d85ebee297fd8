#!/bin/sh
# The tests that need no lab, on each Python that ctlab is for and that is found here: each in an environment of its own, .venv-3.X.
# Usage: test-pythons.sh [OPTION ...] (of pytest)
set -u
cd "$(dirname "$0")/.." || exit 1

find_python() { # VERSION: one that really is it (a version manager's name for it may lead to none), and can make environments
    for candidate in "/usr/bin/python$1" "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python3; do
        path=$(command -v "$candidate") || continue
        "$path" -c "import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null || continue
        echo "$path"
        return
    done
}

status=0
tried=""
missing=""
for version in 3.11 3.12 3.13; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        missing="$missing $version"
        continue
    fi
    venv=.venv-$version
    if [ ! "$venv/.tests" -nt pyproject.toml ]; then
        "$python" -m venv "$venv" && "$venv/bin/python" -m pip install -q -e '.[tests]' && touch "$venv/.tests" || {
            echo "Python $version: $venv can't be made"
            status=1
            continue
        }
    fi
    if "$venv/bin/python" -m pytest -q --numprocesses=2 --dist=loadfile tests/pure "$@"; then
        tried="$tried $version"
    else
        echo "Python $version: tests fail"
        status=1
    fi
done
echo "passed on Python:${tried:- none}"
[ -z "$missing" ] || echo "not found here, and not tried:$missing"
[ -n "$tried" ] || status=1
exit $status
