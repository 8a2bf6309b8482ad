# clonecast: `make` builds, `make test` tests everything from nothing, `make demo` shows it at work.

GO      ?= go
VERSION ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
FUZZTIME ?= 60s

# A hang ends all tests 75 minutes after make began: CI's own limit is 90.
ifndef TESTS_END
TESTS_END := $(shell date -d '75 minutes' +%s)
export TESTS_END
endif
TESTRUN = $(GO) run ./internal/testrun -end $(TESTS_END)

.PHONY: build deps test unit test-long fuzz fuzz-smoke damaged qemu demo clean bench bench-boot bench-multicast

build:
	$(BUILD) -o bin/clonecast ./cmd/clonecast
	$(BUILD) -o bin/clonecast-init ./cmd/clonecast-init

# deps installs the Debian packages that building appliances and testing need: nothing when all are there.
deps:
	@./.ci/deps

# test runs everything; the summaries of its steps stand at the end: times, and what passed at the second try only.
test: deps build
	rm -rf build/summary
	$(GO) vet ./...
	$(MAKE) unit
	$(MAKE) fuzz-smoke
	$(MAKE) qemu
	@echo; cat build/summary/unit build/summary/qemu

# unit runs every test that needs no virtual PC.
unit:
	$(TESTRUN) -limit 40m -summary build/summary/unit ./...

# test-long runs what takes too long for every change, or judges how fast something is and so needs a quiet machine.
test-long: deps build
	CLONECAST_LONG=1 $(GO) test -count=1 -p 1 -timeout 2h ./...
	CLONECAST_LONG=1 CLONECAST_QEMU=1 $(GO) test -v -count=1 -timeout 2h -run TestFaults ./qemu-tests
	$(MAKE) fuzz
	$(MAKE) damaged

# fuzz runs each fuzz target of the project for FUZZTIME; fuzz-smoke tries 3000 inputs of each: a count, because the
# end of a time limit is reported as a failure now and then (golang/go issue 75804). Half an hour means a hang.
fuzz:
	@GO=$(GO) ./.ci/fuzz $(FUZZTIME)

fuzz-smoke:
	@GO=$(GO) timeout 30m ./.ci/fuzz 3000x

# damaged inspects the test images of other projects' file system tools, which it fetches (50 MB) from Debian's source
# packages.
damaged: deps
	./.ci/damaged build/damaged
	CLONECAST_DAMAGED=$(CURDIR)/build/damaged/images $(GO) test -v -count=1 -run TestDamaged ./internal/clone

# qemu runs the end-to-end tests: virtual PCs are captured, deployed and booted.
qemu: deps build
	CLONECAST_QEMU=1 $(TESTRUN) -v -limit 75m -summary build/summary/qemu ./qemu-tests/... -- -p 1 -count=1

demo: deps build
	$(GO) run ./qemu-tests/demo

clean:
	rm -rf bin build

# bench compares capture, deploy and delta with partclone, casync and qcow2; docs/performance.md keeps the figures.
bench: deps build
	./bench/run.sh build/bench

# bench-boot measures the time from the start of a virtual PC to its registration.
bench-boot: deps build
	CLONECAST_QEMU=1 $(GO) test -run '^$$' -bench Registration -benchtime 7x ./qemu-tests

# bench-multicast compares multicast with udpcast and uftp in a network of namespaces (root; half an hour).
bench-multicast: deps build
	./bench/multicast.sh build/bench-multicast
