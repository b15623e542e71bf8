# `make help` says what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

# sudo often has a PATH of its own, without Go.
GO       := $(or $(shell command -v go),/usr/local/go/bin/go)
VERSION  := $(or $(shell git describe --tags --always --dirty 2>/dev/null),unknown)
FUZZTIME ?= 30s
# For how long `make bench` takes each figure of the agent's cost.
BENCH_SECONDS ?= 60
# Arguments for `make run`, such as ARGS="--frequency 99".
ARGS     ?=
# What is built for others is built for these, and takes the time of the commit: the same commit gives the same bytes.
ARCHES   ?= amd64 arm64
DIST     ?= bin/dist
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
export SOURCE_DATE_EPOCH
# What builds container images; podman and buildah do as well as docker.
ENGINE   ?= $(or $(shell command -v docker || command -v podman || command -v buildah),docker)

# Patterns like ./... leave testdata out.
packages := ./... ./testdata/loads/... ./testdata/kernel/... ./testdata/stacks ./testdata/debian ./testdata/testsummary ./testdata/pageserver

# Makes packages. It is of another module, so that the binary's has none of its dependencies.
nfpm     := $(GO) tool -modfile=packaging/tools/go.mod nfpm

# What looks at the kernel runs as root, what builds does not, so that nobody's files become root's.
sudo     := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")
testexec := $(if $(sudo),-exec "sudo env PATH=$$PATH REQUIRE_ALL=$${REQUIRE_ALL:-}")

export CGO_ENABLED := 0
# Not from git by the go command: that fails for root in a user's clone.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: build
build: ## bin/pilotlight: one static binary; needs Go alone
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/pilotlight ./cmd/pilotlight

.PHONY: run
run: build ## profile this machine and show it at http://127.0.0.1:7100; needs root or sudo
	$(sudo) bin/pilotlight run $(ARGS)

.PHONY: binaries
binaries: $(ARCHES:%=bin/linux-%/pilotlight) ## bin/linux-ARCH/pilotlight for amd64 and arm64, as packages have them

# Without DWARF and symbol table, a third of it: Go's own tables have names and lines for panics and profiles.
bin/linux-%/pilotlight: FORCE
	GOOS=linux GOARCH=$* $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/pilotlight
.PHONY: FORCE
FORCE:

# Written anew each time: what is in the binary may have changed.
bin/NOTICES: FORCE
	mkdir -p bin
	packaging/notices $(GO) >$@

.PHONY: package
package: binaries bin/NOTICES ## Debian packages for amd64 and arm64 in bin/dist
	mkdir -p $(DIST)
	@for arch in $(ARCHES); do \
		ARCH=$$arch DEB_VERSION=$$(packaging/debian/version '$(VERSION)' $(SOURCE_DATE_EPOCH)) \
			$(nfpm) package --config packaging/debian/nfpm.yaml --packager deb --target $(DIST)/; \
	done

.PHONY: dist
dist: ## all of a release in bin/dist: archives, packages, SBOMs and checksums
	rm -rf $(DIST)
	$(MAKE) package
	$(GO) -C packaging/tools build -o ../../bin/sbom ./sbom
	packaging/dist $(DIST) '$(VERSION)' $(ARCHES)
	sums=$$(cd $(DIST) && LC_ALL=C sha256sum *) && echo "$$sums" >$(DIST)/SHA256SUMS

.PHONY: image
image: ARCHES := $(shell $(GO) env GOARCH)
image: ## the container image pilotlight:VERSION, with docker, podman or buildah; takes nothing from a registry
	$(MAKE) binaries ARCHES=$(ARCHES)
	packaging/container/root $(ARCHES) '$(GO) -C packaging/tools run ./roots'
	$(ENGINE) build -f packaging/container/Dockerfile --build-arg VERSION='$(VERSION)' -t pilotlight:'$(VERSION)' bin/image-$(ARCHES)

.PHONY: test
test: deps ui-modules ## all tests, after installing what they need; REQUIRE_ALL=1 allows no skip
	mkdir -p bin
	cd ui && npm test 2>&1 | tee ../bin/ui-test.log
	cd ui && npm run test:browser 2>&1 | tee ../bin/browser-test.log
	$(GO) vet $(packages)
	$(MAKE) -C testdata/loads GO=$(GO)
	$(MAKE) -C testdata/stacks
	$(GO) build -o bin/testsummary ./testdata/testsummary
	{ $(GO) test -json -count=1 -timeout 12m -bench . -benchtime 1x $(testexec) $(packages); \
		$(GO) -C packaging/tools test -json -count=1 ./...; } \
		| bin/testsummary -ui bin/ui-test.log -browser bin/browser-test.log

.PHONY: test-kernel
test-kernel: ## the tests of bpf on Linux 6.1 in QEMU: the oldest kernel that the sampler is for
	.ci/deps kernel
	$(MAKE) -C testdata/kernel GO=$(GO)
	$(MAKE) -C testdata/stacks
	$(MAKE) -C bpf/testdata
	$(GO) test -c -o bin/bpf.test ./bpf
	testdata/kernel/build/boot -kernel testdata/kernel/build/vmlinuz -init testdata/kernel/build/init \
		-with testdata/stacks/build -with bpf/testdata/build bin/bpf.test bpf -test.run '^TestKernel' -test.skip '^TestKernelGDB' -test.v -test.timeout 9m

.PHONY: bench
bench: build ## figures: Go benchmarks, then the agent's cost on idle and mix beside perf
	.ci/deps bench
	$(GO) test -run '^$$' -bench . -benchmem $(testexec) $(packages)
	$(MAKE) -C testdata/loads GO=$(GO) all
	$(GO) build -o bin/cost ./testdata/loads/cost
	$(sudo) bin/cost -seconds $(BENCH_SECONDS) bin/pilotlight

.PHONY: bench-store
bench-store: ## figures of the profile store; BENCH_SCALES=1,4,16 times the pods, BENCH_LOADS=steady,new,recorded chooses the profiles
	$(GO) test -tags benchstore -run '^TestBenchStore$$' -v -count=1 -timeout 3h ./profilestore

.PHONY: bench-ui
bench-ui: ui-modules ## figures of the page beside go tool pprof -http and speedscope; BENCH_NODES=10,10000,100000,1000000 BENCH_PROFILES=15000
	.ci/deps
	cd ui && node test/browser/bench.mjs

.PHONY: verify
verify: build ## the long tests (TestVerify*, build tag verify), one after the other, for hours; each prints its figures
	.ci/deps bench packages
	$(MAKE) -C testdata/loads GO=$(GO) all
	$(MAKE) -C testdata/stacks all
	$(GO) test -p 1 -tags verify -run '^TestVerify' -v -count=1 -timeout 12h $(testexec) $(packages)

.PHONY: generate
generate: ## BPF objects and their Go bindings, with clang-19; messages of Pyroscope's API and of runtimes', with protoc
	$(GO) generate ./bpf ./profilestore/httpapi/pyroscope ./cmd/pilotlight/containers/api

.PHONY: ui
ui: ui-modules ## the UI's bundle in ui/dist
	cd ui && npm run build

.PHONY: lint
lint: ui-modules ## gofmt, go mod tidy, go vet, staticcheck, tsc
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs $$($(GO) env GOROOT)/bin/gofmt -l); \
		if [ -n "$$unformatted" ]; then echo "run gofmt -w on:" $$unformatted >&2; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) -C packaging/tools mod tidy -diff
	$(GO) vet -tags verify $(packages)
	$(GO) -C packaging/tools vet ./...
	$(GO) tool staticcheck -tags verify $(packages)
	cd ui && npm run check

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@for package in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -r dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | cut -c6-); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) ./$$package; \
		done; \
	done

.PHONY: deps
deps: ## what the tests need, with apt; says what and why
	.ci/deps

# Done again only when the lock file has changed.
.PHONY: ui-modules
ui-modules: ui/node_modules/.package-lock.json
ui/node_modules/.package-lock.json: ui/package-lock.json
	cd ui && npm ci --no-audit --no-fund
	touch $@

.PHONY: clean
clean: ## remove what was built, except what is committed
	rm -rf bin ui/node_modules
	$(MAKE) -C testdata/loads clean
	$(MAKE) -C testdata/kernel clean
	$(MAKE) -C testdata/stacks clean
	$(MAKE) -C bpf/testdata clean

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
