#!/usr/bin/env bash
# Writes the generated part of docs/reference; with --check it writes nothing and fails when that part is out of date.
# Usage: tools/generate.sh [--check] FOLDER (bin/seakeep and bin/tools/metricsdoc are built before)
set -euo pipefail
cd "$(dirname "$0")/.."
check=
if [ "${1:-}" = --check ]; then check=yes; shift; fi
folder=$1

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
bin/seakeep docs --out "$new"
bin/tools/metricsdoc . >"$new/metrics.md"

stale=
for part in cli schema metrics.md; do
  diff -ru "$folder/$part" "$new/$part" >"$new/diff" 2>&1 || stale+=" $part"
  if [ -n "$check" ]; then cat "$new/diff"; continue; fi
  mkdir -p "$folder"
  rm -rf "${folder:?}/$part"
  cp -r "$new/$part" "$folder/$part"
done
if [ -n "$check" ] && [ -n "$stale" ]; then
  echo "error: $folder is out of date:$stale" >&2
  echo "hint: make generate" >&2
  exit 1
fi
