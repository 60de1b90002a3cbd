#!/usr/bin/env bash
# Builds the lab's control plane from Go modules into bin/: etcd, the three Kubernetes servers, kubectl and kwok.
# What is built, and in which version, stands in lab/controlplane/go.mod only; this script reads it there.
#
# Usage: tools/controlplane.sh [-o FOLDER] [-k MINOR] [PROGRAM...]
# -k MINOR builds the older Kubernetes of lab/controlplane/MINOR/go.mod into FOLDER/MINOR instead; etcd and kwok, which
# all minors share, are linked there from FOLDER and built first where they are missing.
# $KUBEBUILDER_ASSETS: programs found in that folder are used from there and are not built. Not with -k: what is there
# is of one version, and asking for a minor is asking for another.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(etcd kwok kubectl kube-scheduler kube-controller-manager kube-apiserver)
declare -A package=(
  [etcd]=go.etcd.io/etcd/server/v3
  [kwok]=sigs.k8s.io/kwok/cmd/kwok
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
  [kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
  [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
)

out=bin
minor=
while getopts o:k: flag; do
  case $flag in
    o) out=$OPTARG ;;
    k) minor=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
wanted=("$@")
module=lab/controlplane
if [ -n "$minor" ]; then
  module+=/$minor
  [ -f "$module/go.mod" ] || { echo "error: unknown minor $minor; known: $(cd lab/controlplane && echo v*)" >&2; exit 2; }
  [ ${#wanted[@]} = 0 ] || { echo "error: -k builds all programs of a minor" >&2; exit 2; }
  tools/controlplane.sh -o "$out" etcd kwok
  mkdir -p "$out/$minor"
  for name in etcd kwok; do ln -sfn "../$name" "$out/$minor/$name"; done
  out+=/$minor
  wanted=(kubectl kube-scheduler kube-controller-manager kube-apiserver)
  unset KUBEBUILDER_ASSETS
fi
if [ ${#wanted[@]} = 0 ]; then wanted=("${all[@]}"); fi
for name in "${wanted[@]}"; do
  [ -n "${package[$name]:-}" ] || { echo "error: unknown program $name; known: ${all[*]}" >&2; exit 2; }
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
stamps=$out/.stamps
mkdir -p "$stamps"

# The stamp is what was built, not when: a checkout changes every file's time, and building again takes minutes.
stamp=$({ cat "$module/go.mod" "$module/go.sum"; go env GOVERSION GOOS GOARCH; } | git hash-object --stdin)

# The folder itself as the assets: nothing to link to.
if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ "$KUBEBUILDER_ASSETS" -ef "$out" ]; then unset KUBEBUILDER_ASSETS; fi

missing=()
for name in "${wanted[@]}"; do
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$name" ]; then
    # Linked, so that one folder holds all the lab needs whatever mixture the assets are.
    ln -sfn "$(cd "$KUBEBUILDER_ASSETS" && pwd)/$name" "$out/$name"
    rm -f "$stamps/$name"
    echo "control plane: $name from \$KUBEBUILDER_ASSETS"
  elif [ -h "$out/$name" ] || [ ! -x "$out/$name" ] || [ "$(cat "$stamps/$name" 2>/dev/null)" != "$stamp" ]; then
    missing+=("$name")
  fi
done
if [ ${#missing[@]} = 0 ]; then
  echo "control plane: up to date in $out"
  exit 0
fi

version=$(cd "$module" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r version_major version_minor _ <<<"${version#v}"
# Without these the API server calls itself v0.0.0 and clients fall back to ancient behaviour.
ldflags="-s -w"
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  ldflags+=" -X $p.gitVersion=$version -X $p.gitMajor=$version_major -X $p.gitMinor=$version_minor -X $p.gitTreeState=clean"
done

echo "control plane: building ${missing[*]} (Kubernetes $version) into $out"
echo "control plane: the first time takes 5 to 10 minutes on 2 cores, 4 GB of disk for caches and up to 2 GB of memory"

log=$(mktemp)
heartbeat=
trap 'rm -f "$log"; [ -z "$heartbeat" ] || kill "$heartbeat" 2>/dev/null || true' EXIT
started=$SECONDS
for i in "${!missing[@]}"; do
  name=${missing[$i]}
  : >"$log"
  begun=$SECONDS
  printf 'control plane: [%d/%d] %s\n' $((i + 1)) ${#missing[@]} "$name"
  ( while sleep 20 >/dev/null 2>&1; do
      printf 'control plane: [%d/%d] %s: %d packages compiled, %d s\n' \
        $((i + 1)) ${#missing[@]} "$name" "$(grep -vc '^go: ' "$log" || true)" $((SECONDS - begun))
    done ) &
  heartbeat=$!
  # -v names each package as it is compiled; that is the heartbeat's count. CGO_ENABLED=0: no C compiler needed.
  if ! (cd "$module" && CGO_ENABLED=0 go build -v -trimpath -ldflags "$ldflags" -o "$out/.$name.new" "${package[$name]}") 2>"$log"; then
    echo "error: building $name:" >&2
    tail -n 25 "$log" >&2
    exit 1
  fi
  kill "$heartbeat" 2>/dev/null || true
  wait "$heartbeat" 2>/dev/null || true
  heartbeat=
  rm -f "$out/$name"
  mv "$out/.$name.new" "$out/$name"
  echo "$stamp" >"$stamps/$name"
  printf 'control plane: [%d/%d] %s done, %d s\n' $((i + 1)) ${#missing[@]} "$name" $((SECONDS - begun))
done
printf 'control plane: ready in %s after %d s\n' "$out" $((SECONDS - started))
