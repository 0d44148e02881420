#!/usr/bin/env bash
# Prints the path of a Chromium on standard output, and what it is on standard error.
# Taken in this order: $LOOKONCE_TEST_CHROMIUM, the system's, one from apt-get where we are root.
set -euo pipefail

report() {
    echo "chromium: $1 ($("$1" --version 2>/dev/null | head -n 1), from $2)" >&2
    echo "$1"
}

system() {
    local name
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    return 1
}

if [ -n "${LOOKONCE_TEST_CHROMIUM:-}" ]; then
    report "$LOOKONCE_TEST_CHROMIUM" LOOKONCE_TEST_CHROMIUM
elif found=$(system); then
    report "$found" system
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends chromium
    } >&2
    report "$(system)" apt-get
else
    echo "chromium: none found: install it, or set LOOKONCE_TEST_CHROMIUM" >&2
    exit 1
fi
