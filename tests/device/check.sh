#!/usr/bin/env bash
# A device needs no PyTorch: verify, predict and bench a bundle in fresh environments that hold edgeresnext[cpu] alone.
#
#   tests/device/check.sh BUNDLE IMAGE PYTHON...
set -euo pipefail
bundle=$1 image=$2
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for python in "$@"; do
    echo "== $("$python" --version)"
    "$python" -m venv "$scratch/venv"
    "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "$root[cpu]"
    if "$scratch/venv/bin/python" -c 'import torch' 2>/dev/null || "$scratch/venv/bin/python" -c 'import onnx' 2>/dev/null; then
        echo "torch or onnx was installed along" >&2
        exit 1
    fi
    "$scratch/venv/bin/edgeresnext" verify "$bundle"
    "$scratch/venv/bin/edgeresnext" predict "$bundle" "$image"
    "$scratch/venv/bin/edgeresnext" bench "$bundle" --seconds 2
    rm -rf "$scratch/venv"
done
