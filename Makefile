# Everything here works from a fresh clone on Linux with Go, make and git; no root, no system package.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
BIN := bin
TOOLS := $(BIN)/tools
OUT ?= out

# Packages under test, and how. Several packages start a control plane of their own: one package at a time, so that
# two of them do not compete for two cores and turn timing into failures. Raise P on a bigger machine.
PKG ?= ./...
P ?= 1
TIMEOUT ?= 20m
# Packages whose tests show that the gate is transparent; they run against each minor.
SKEW_PKG ?= ./gate ./gate/skew ./gate/transparency/...
# Those of them that are run with a gate that shares reads as well, and what shows that sharing itself is transparent.
SKEW_RELAY_PKG ?= ./gate/skew ./gate/transparency/... ./gate/relay/differential
# A module of its own in which a test's controller is built with several minors of controller-runtime.
RECONCILER := gate/relay/differential/reconciler
RACE_TIMEOUT ?= 40m

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -X github.com/seakeep/seakeep/cli.version=$(VERSION)
# Pure Go everywhere: no C compiler is needed, and the programs run on any Linux. Only `race` needs one.
export CGO_ENABLED := 0
# Programs, tests and linters are built one way, so that a bare machine compiles every package once.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

# Files not yet committed are held to the same rules.
GOFILES = $(shell git ls-files --cached --others --exclude-standard '*.go')

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Replay the incident of 2024-12-11 twice, unprotected and with the gate; report in out/replay
	@echo "demo: the incident of 2024-12-11 on a real control plane, first unprotected, then with the gate"
	@echo "demo: takes about 5 minutes on 2 cores; the very first time 5 to 10 minutes more to build the control plane,"
	@echo "demo: up to 8 GB of disk (Go's caches, bin/ and out/) and up to 8 GB of memory; nothing is written but in this"
	@echo "demo: folder, Go's caches and the temporary folder, nothing listens but on loopback, nothing is left running"
	@$(MAKE) control-plane build
	$(BIN)/seakeep lab replay openai-2024-12-11 --layers none --layers gate --out $(OUT)/replay --yes

.PHONY: control-plane
control-plane: ## Build etcd, Kubernetes and kwok for the lab into bin/, once ($KUBEBUILDER_ASSETS is honoured)
	@tools/controlplane.sh -o $(BIN)

.PHONY: build
build: ## Build bin/seakeep and bin/seakeep-dns
	@mkdir -p $(BIN)
	@for name in $(notdir $(wildcard cmd/*)); do \
	  echo "build: $(BIN)/$$name"; $(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/$$name ./cmd/$$name; done

.PHONY: test
test: control-plane build $(TOOLS)/tally ## Run all tests, those against the real control plane too; a skipped test fails
	@echo "test: $(PKG), $(P) package(s) at a time"
	@{ code=0; $(GO) test -C tools -count=1 -json ./... || code=1; \
	  $(GO) test -count=1 -p $(P) -timeout $(TIMEOUT) -json $(PKG) || code=1; exit $$code; } 2>&1 | $(TOOLS)/tally

.PHONY: test-skew
test-skew: control-plane $(TOOLS)/tally ## Run the gate's end-to-end tests against each supported Kubernetes minor
	@for module in $(wildcard lab/controlplane/v*/go.mod); do tools/controlplane.sh -o $(BIN) -k $$(basename $$(dirname $$module)); done
	@TIMEOUT=$(TIMEOUT) tools/skew.sh -o $(OUT)/skew $(BIN) $(SKEW_PKG)
	@echo "test-skew: the same, with a gate that shares whatever may be shared"
	@TIMEOUT=$(TIMEOUT) SEAKEEP_TEST_SHARE_ALL=yes SEAKEEP_TEST_EVERY_MINOR=yes tools/skew.sh -o $(OUT)/skew/shared $(BIN) $(SKEW_RELAY_PKG)

.PHONY: test-dns-backup
test-dns-backup: build ## Test DNS's backup with unbound and nftables, in a network namespace (root; installs them)
	@[ "$$(id -u)" = 0 ] || { echo "error: network namespaces and nftables need root" >&2; echo "hint: sudo make test-dns-backup" >&2; exit 1; }
	@for name in unbound nft ip unshare; do command -v $$name >/dev/null || { \
	  echo "test-dns-backup: installing the packages unbound, nftables, iproute2 and util-linux"; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q unbound nftables iproute2 util-linux >/dev/null; break; }; done
	@mkdir -p $(BIN)/bench && $(GO) test -tags dnsbackup -c -o $(BIN)/bench/dnsbackup.test ./dns/watchdog
	cd dns/watchdog && SEAKEEP_DNS=$(CURDIR)/$(BIN)/seakeep-dns unshare --net $(CURDIR)/$(BIN)/bench/dnsbackup.test -test.v -test.run 'TestUnbound|TestStaleTable|TestFailures'

.PHONY: race
race: control-plane build $(TOOLS)/tally ## Run all tests under the race detector (needs a C compiler)
	@command -v "$${CC:-gcc}" >/dev/null || { \
	  echo "error: the race detector needs cgo, and there is no C compiler ($${CC:-gcc})" >&2; \
	  echo "hint: install gcc, or run 'make test', which needs none" >&2; exit 1; }
	@CGO_ENABLED=1 $(GO) test -race -count=1 -p $(P) -timeout $(RACE_TIMEOUT) -json $(PKG) 2>&1 | $(TOOLS)/tally

# Each part of this list has a target bench-<part> and a program bench/<part>.
BENCHES := gate dns relay failover overload forecast rollout
BENCH_ARGS ?=

.PHONY: bench
bench: ## Run every part's benchmark against its baselines, one after the other
	@for part in $(BENCHES); do $(MAKE) bench-$$part; done

.PHONY: bench-gate
bench-gate: control-plane build ## Measure the gate beside HAProxy and nginx (installs them); report in out/bench/gate.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/gate ./bench/gate
	$(BIN)/bench/gate -seakeep $(BIN)/seakeep -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-dns
bench-dns: control-plane build ## Measure seakeep-dns beside stock CoreDNS and unbound (installs dnsperf, unbound); report in out/bench/dns.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/dns ./bench/dns
	$(BIN)/bench/dns -seakeep-dns $(BIN)/seakeep-dns -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-relay
bench-relay: control-plane build ## Measure shared reads beside a naive group-commit proxy and none; report in out/bench/relay.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/relay ./bench/relay && $(GO) build -o $(BIN)/bench/relay-naive ./bench/relay/naive
	$(BIN)/bench/relay -seakeep $(BIN)/seakeep -naive $(BIN)/bench/relay-naive -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-failover
bench-failover: control-plane build ## Measure what is lost when one of three API servers loses its etcd, beside HAProxy (installs it); report in out/bench/failover.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/failover ./bench/failover
	$(BIN)/bench/failover -seakeep $(BIN)/seakeep -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-overload
bench-overload: control-plane build ## Measure storms, a recovery and predictions under admission, beside HAProxy (installs it) and tuned API servers; report in out/bench/overload.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/overload ./bench/overload
	$(BIN)/bench/overload -seakeep $(BIN)/seakeep -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-forecast
bench-forecast: control-plane build ## Measure how near forecasts from a few nodes come to all of them, live and on traces; report in out/bench/forecast.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/forecast ./bench/forecast
	$(BIN)/bench/forecast -seakeep $(BIN)/seakeep -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-rollout
bench-rollout: control-plane build ## Measure how bad changes are told from good ones, and a saturated API server's rollback; report in out/bench/rollout.json
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/rollout ./bench/rollout
	$(BIN)/bench/rollout -seakeep $(BIN)/seakeep -version '$(VERSION)' -out $(OUT)/bench $(BENCH_ARGS)

.PHONY: bench-record
bench-record: ## Record the reports of out/bench and write docs/benchmarks.md from them
	@mkdir -p docs/benchmarks && cp $(OUT)/bench/*.json docs/benchmarks/ && $(GO) run ./bench/page
	@echo "bench-record: docs/benchmarks.md"

.PHONY: bench-packages
bench-packages: ## Run the packages' own small benchmarks
	$(GO) test -run '^$$' -bench . -benchmem -p 1 $(PKG)

# How long each fuzz test runs.
FUZZTIME ?= 60s

.PHONY: fuzz
fuzz: ## Run every fuzz test for FUZZTIME (60s), one after the other; a crasher is written to its testdata/fuzz
	@grep -rn --include='*_test.go' '^func Fuzz' $(wildcard */) | \
	  sed -E 's#^([^:]*)/[^/:]+:[0-9]+:func (Fuzz[A-Za-z0-9_]*).*#\1 \2#' | sort -u | { code=0; \
	  while read -r folder name; do echo "fuzz: $$folder $$name"; \
	    $(GO) test ./$$folder -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) </dev/null || code=1; done; exit $$code; }

.PHONY: lint
lint: $(TOOLS)/staticcheck ## Check formatting, go vet and staticcheck
	@echo "lint: gofmt"
	@unformatted=$$(gofmt -l $(GOFILES)); [ -z "$$unformatted" ] || { echo "error: not formatted:" $$unformatted >&2; echo "hint: make fmt" >&2; exit 1; }
	@echo "lint: go vet"
	@$(GO) vet ./... && $(GO) vet -C tools ./... && $(GO) vet -C $(RECONCILER) ./...
	@echo "lint: staticcheck"
	@$(TOOLS)/staticcheck ./... && cd tools && ../$(TOOLS)/staticcheck ./...

.PHONY: fmt
fmt: ## Format the Go files
	gofmt -w $(GOFILES)

.PHONY: generate
generate: build $(TOOLS)/metricsdoc ## Write docs/reference (every verb, metric and kind's schema) and the CRD in deploy/rollout
	@tools/generate.sh docs/reference
	@$(GO) build -C tools -o $(CURDIR)/$(TOOLS)/controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen
	@$(TOOLS)/controller-gen crd:allowDangerousTypes=true,crdVersions=v1 paths=./api/hub output:crd:dir=deploy/rollout

.PHONY: verify
verify: lint build $(TOOLS)/metricsdoc ## lint, and fail when generated files or go.mod are not up to date
	@echo "verify: docs/reference"
	@tools/generate.sh --check docs/reference
	@echo "verify: docs/benchmarks.md"
	@$(GO) run ./bench/page -check
	@echo "verify: go.mod"
	@$(GO) mod tidy -diff && $(GO) mod verify && $(GO) mod tidy -C tools -diff
	@for file in $(notdir $(wildcard $(RECONCILER)/*.mod)); do $(GO) mod tidy -C $(RECONCILER) -modfile=$$file -diff; done
	@echo "verify: ok"

.PHONY: clean
clean: ## Remove what was built and written here, except the control plane's programs
	rm -rf $(OUT) $(TOOLS) $(BIN)/seakeep $(BIN)/seakeep-dns

$(TOOLS)/staticcheck: tools/go.mod tools/go.sum
	@echo "lint: building staticcheck"
	@mkdir -p $(TOOLS) && $(GO) build -C tools -o ../$@ honnef.co/go/tools/cmd/staticcheck && touch $@

$(TOOLS)/tally: $(wildcard tools/tally/*.go)
	@mkdir -p $(TOOLS) && $(GO) build -C tools -o ../$@ ./tally && touch $@

$(TOOLS)/metricsdoc: $(wildcard tools/metricsdoc/*.go)
	@mkdir -p $(TOOLS) && $(GO) build -C tools -o ../$@ ./metricsdoc && touch $@
