#!/usr/bin/env bash
# All that is measured on an accelerator, in one command of at most 8 minutes; see on_accelerator.py.
#
#     benchmarks/on_accelerator.sh [--size=small] [--out=FOLDER] [--minutes=8] [--parts=rows,planning]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m benchmarks.on_accelerator "$@"
