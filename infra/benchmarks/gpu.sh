#!/usr/bin/env bash
# Everything that needs a GPU, in one command: infra/benchmarks/gpu.sh [minutes] [options of gpu.py]
# It resumes: run it again to do what is missing. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=30
if [[ $# -gt 0 && $1 != -* ]]; then
    minutes=$1
    shift
fi
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m infra.benchmarks.gpu --minutes "$minutes" "$@"
