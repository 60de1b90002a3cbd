#!/usr/bin/env bash
# Runs the gate's end-to-end tests against one control plane after the other: the one in the folder of binaries, and the
# older minors of lab/controlplane/. Prints how many tests passed and failed on each, and in what the minors differ.
#
# Usage: tools/skew.sh [-o FOLDER] BINARIES PACKAGE...
# FOLDER (default out/skew) gets, for each version, the tests' log and a list of what became of each call of kubectl.
set -euo pipefail
cd "$(dirname "$0")/.."

out=out/skew
while getopts o: flag; do
  case $flag in
    o) out=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
bin=$1
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)

folders=("$bin")
for module in $(printf '%s\n' lab/controlplane/v*/go.mod | sort -rV); do
  folders+=("$bin/$(basename "$(dirname "$module")")")
done

code=0
table=
records=()
for folder in "${folders[@]}"; do
  version=$("$folder/kube-apiserver" --version | awk '{print $2}')
  echo "test-skew: Kubernetes $version: $*"
  log=$out/$version.log
  record=$out/$version.txt
  rm -f "$record"
  verdict=passed
  begun=$SECONDS
  if ! { KUBEBUILDER_ASSETS=$(cd "$folder" && pwd) SKEW_RECORD=$record \
      "${GO:-go}" test -count=1 -p 1 -timeout "${TIMEOUT:-20m}" -json "$@" 2>&1 || true; } | "$bin/tools/tally" >"$log"; then
    verdict=FAILED
    code=1
    cat "$log"
  fi
  counts=$(tail -n 1 "$log")
  table+=$(printf '%-10s %-7s %s, %d s' "$version" "$verdict" "$counts" $((SECONDS - begun)))$'\n'
  echo "test-skew: Kubernetes $version: $counts"
  if [ -f "$record" ]; then records+=("$record"); else echo "error: no record of Kubernetes $version's calls" >&2; code=1; fi
done

printf '\nKubernetes verdict\n%s\n' "$table"
newest=${records[0]:-}
for record in "${records[@]:1}"; do
  # Direct and gate are compared by the tests; this says what kubectl and API server of one minor do unlike another's.
  if difference=$(diff "$newest" "$record"); then
    echo "$(basename "$newest" .txt) and $(basename "$record" .txt): no call of kubectl ends otherwise"
  else
    echo "$(basename "$newest" .txt) (<) and $(basename "$record" .txt) (>) differ, direct and through the gate alike, in:"
    grep '^[<>]' <<<"$difference" | cut -c1-240
  fi
done
exit $code
