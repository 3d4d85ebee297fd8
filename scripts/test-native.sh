#!/bin/sh
# All tests on this machine's kernel, on four processes, since many wait more than they work: a file at a time, in their order (the long ones come first).
# What fails is run once more by itself (tests/second_look.py).
# Usage: test-native.sh PYTHON [OPTION ...] (of pytest)
set -u
cd "$(dirname "$0")/.." || exit 1
python=$1
shift

export CTLAB_TEST_LEG=native
rm -rf out/legs
exec "$python" tests/second_look.py out/legs/native.json out/flaky.txt \
    --numprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
