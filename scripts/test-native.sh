#!/bin/sh
# All tests on this machine's kernel: on two processes what disturbs nobody, then by itself what is marked `alone`.
# Usage: test-native.sh PYTHON [OPTION ...] (of pytest)
set -u
cd "$(dirname "$0")/.." || exit 1
python=$1
shift

export CTLAB_TEST_LEG=native
rm -rf out/legs
status=0
CTLAB_LEG_REPORT=out/legs/native.json \
    "$python" -m pytest --numprocesses=2 --dist=loadgroup -m "not alone" "$@" || status=1
CTLAB_LEG_REPORT=out/legs/native-alone.json "$python" -m pytest -m alone "$@" || status=1
exit $status
