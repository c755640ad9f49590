# Thimble. `make` alone says what can be made; each target does its own set-up.

TARGET  := target/x86_64-unknown-linux-gnu
THIMBLE := $(TARGET)/release/thimble
# The flags that are for every call of cargo.
CARGO   ?= cargo

.DEFAULT_GOAL := help
.PHONY: help setup programs build run test lint unit system host-kernel-test soak fuzz bench doctor clean

help: ## say this
	@echo "Thimble: one TOML file in, a bootable KVM appliance out."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what the build and the tests need (Debian 12, apt)
	@scripts/setup

programs: setup ## compile thimble and the programs that an appliance carries
	@scripts/programs

build: programs ## build the demonstration, configs/demo.toml, into target/demo
	@$(THIMBLE) build configs/demo.toml --out target/demo

run: build ## boot the demonstration in QEMU; Ctrl-C powers it off, Ctrl-A x quits
	@$(THIMBLE) run target/demo

# What whole systems need is fetched and made beside what is compiled: each waits for the network now and then.
test: setup ## run every test: what CI runs
	@scripts/trees & trees=$$!; trap 'kill $$trees 2>/dev/null' EXIT; \
		$(MAKE) --no-print-directory lint unit build && wait $$trees && trap - EXIT && $(MAKE) --no-print-directory system fuzz

lint: programs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --quiet --workspace --all-targets --features thimble-tests/host-kernel -- -D warnings
	$(CARGO) clippy --release --quiet --package thimble-init --no-default-features --all-targets -- -D warnings

unit: programs
	@scripts/tests --workspace --exclude thimble-tests -- --quiet

# Each of these machines keeps one processor busy.
system: build
	@scripts/trees
	@scripts/with-qemu scripts/tests --lanes 2 --package thimble-tests -- --test-threads=1

host-kernel-test: build ## compile a kernel for the host and boot it: 10 minutes and more the first time
	scripts/with-qemu $(CARGO) test --release --package thimble-tests --features host-kernel --test host_kernel -- --test-threads=1 --nocapture

# How long each target runs, in seconds.
FUZZ    ?= 5

# Power cuts in the middle of an update, each with a machine of its own: about half a minute.
CUTS    ?= 50
# Kills of the node daemon in the middle of what it is asked for.
KILLS   ?= 100

soak: build ## the long loops: CUTS=50 power cuts in the middle of an update, KILLS=100 kills of the node daemon
	THIMBLE_KILLS=$(KILLS) scripts/with-qemu $(CARGO) test --release --package thimble-tests --test kills -- --nocapture
	THIMBLE_CUTS=$(CUTS) scripts/with-qemu $(CARGO) test --release --package thimble-tests --test update_node -- --nocapture power_cut

fuzz: setup ## run all fuzz targets, FUZZ=5 seconds each
	@scripts/fuzz $(FUZZ)

bench: build ## print sizes and boot times
	@scripts/with-qemu $(CARGO) run --quiet --release --package thimble-tests --bin bench
	@echo "virtio requests, from the device's look at its ring to the answer in it (valgrind --tool=callgrind)"
	@scripts/count-instructions
	@echo "the same with the driver's side and the host's kernel, in time (criterion: cargo bench -p thimble-vmm)"
	@$(CARGO) bench --quiet --package thimble-vmm --features testing --bench devices 2>/dev/null | grep time:

doctor: programs ## say what this machine lacks
	@$(THIMBLE) doctor

clean: ## remove what was built here; the cache of kernels and packages stays
	rm -rf target
