#!/bin/bash
# Runs one libFuzzer program for SLUICE_FUZZ_SECONDS seconds on a copy of its corpus.
set -eu; set -o pipefail 2>/dev/null || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -d "$2" ] && cp -r "$2/." "$work/"
exec_time=${SLUICE_FUZZ_SECONDS:-5}
"$1" -max_total_time="$exec_time" -rss_limit_mb=2048 -timeout=10 -artifact_prefix="${TMPDIR:-/tmp}/" "$work" 2>&1 | tail -n 12
