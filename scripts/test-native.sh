#!/bin/sh
# All tests on this machine's kernel, on three processes, since many wait more than they work: a file at a time, in their order (the long ones come first).
# Usage: test-native.sh PYTHON [OPTION ...] (of pytest)
set -u
cd "$(dirname "$0")/.." || exit 1
python=$1
shift

export CTLAB_TEST_LEG=native
rm -rf out/legs
CTLAB_LEG_REPORT=out/legs/native.json exec "$python" -m pytest \
    --numprocesses=3 --dist=loadfile --no-loadscope-reorder "$@"
