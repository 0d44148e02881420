#!/usr/bin/env bash
# Prints the path of a haproxy on standard output, and what it is on standard error.
# Taken in this order: $LOOKONCE_TEST_HAPROXY, the system's, one from apt-get where we are root.
set -euo pipefail

report() {
    echo "haproxy: $1 ($("$1" --version 2>/dev/null | head -n 1), from $2)" >&2
    echo "$1"
}

if [ -n "${LOOKONCE_TEST_HAPROXY:-}" ]; then
    report "$LOOKONCE_TEST_HAPROXY" LOOKONCE_TEST_HAPROXY
elif found=$(command -v haproxy); then
    report "$found" system
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends haproxy
    } >&2
    report "$(command -v haproxy)" apt-get
else
    echo "haproxy: none found: install HAProxy, or set LOOKONCE_TEST_HAPROXY" >&2
    exit 1
fi
