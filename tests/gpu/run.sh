#!/usr/bin/env bash
# Thirty minutes of somebody's GPU: stages that each stand alone, write JSON into one folder, and never hang.
#
#   tests/gpu/run.sh [--out DIR] [--only STAGE,...] [--minutes 30] [--seconds 600]
#
#   PYTHON=python3     which Python; TensorRT 8.6 has no wheels for later ones than 3.10
#   WHEELS=DIR         wheels to use besides, on a machine without a package registry
#
# Nothing has to be installed but what `import edgeresnext` and a build need. Then: benchmarks/hardware.py DIR keeps the results.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
path=$root:$root/tests
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    path=$path:$site
fi
PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} "$python" -m gpu.runner "$@"
