#!/usr/bin/env bash
# Prints the path of a promtool, which checks Prometheus rules, on standard output, and what it is on standard error.
# Taken in this order: $LOOKONCE_TEST_PROMTOOL, the system's, that of apt-get's prometheus where we are root.
set -euo pipefail

report() {
    echo "promtool: $1 ($("$1" --version 2>/dev/null | head -n 1), from $2)" >&2
    echo "$1"
}

if [ -n "${LOOKONCE_TEST_PROMTOOL:-}" ]; then
    report "$LOOKONCE_TEST_PROMTOOL" LOOKONCE_TEST_PROMTOOL
elif found=$(command -v promtool); then
    report "$found" system
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends prometheus
    } >&2
    report "$(command -v promtool)" apt-get
else
    echo "promtool: none found: install Prometheus, or set LOOKONCE_TEST_PROMTOOL" >&2
    exit 1
fi
