# Every target does its own set-up; `make` alone lists them.

CARGO ?= cargo

# What `make demo` builds with. The development profile compiles several times faster, and the demo says
# with its figures which build they come from; for figures that mean something: `make demo PROFILE=release`.
PROFILE ?= dev
# Passed on: make demo ARGS=--keep, make bench ARGS="--rounds 5", make test ARGS=-ptulle-policy
ARGS ?=

TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN_DIR = $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: peers-build ## release binaries, in target/release
	$(CARGO) build --release --workspace --bins

.PHONY: demo
demo: peers-build ## a mesh on this machine, shown step by step, then removed
	@$(CARGO) build --profile $(PROFILE) --workspace --bins
	@$(BIN_DIR)/tulle demo $(ARGS)

# Namespace tests start the real binaries, which `cargo test` alone would not build. What tests ask of libraries is built in the same
# go: on their own, the binaries would take another build of a hundred crates.
TESTS := $(if $(filter-out --%,$(ARGS))$(filter -p%,$(ARGS)),,--tests)

.PHONY: test
test: peers-test ## unit, property and namespace tests
	@scripts/peers.sh runtime || echo "going on without: tests that say so are skipped"
	@scripts/peers.sh kubernetes || echo "going on without: tests that say so are skipped"
	$(CARGO) build --workspace --bins $(TESTS)
	$(CARGO) test $(or $(ARGS),--workspace)

.PHONY: bench
bench: peers-bench ## the same pods with and without the mesh; figures also in target/bench.json
	$(CARGO) build --release --workspace --bins
	$(TARGET)/release/mesh-bench --json $(TARGET)/bench.json $(ARGS)

.PHONY: fuzz
fuzz: peers-build ## fuzz targets, ten seconds each; ARGS="SECONDS TARGET..."
	@scripts/fuzz.sh $(ARGS)

.PHONY: bench-scale
bench-scale: ## the control plane of a large cluster, with a real API server; figures also in target/scale.json
	scripts/peers.sh kubernetes
	$(CARGO) build --release -p tulle-control-plane -p tulle-tests --bins
	$(TARGET)/release/scale-bench --json $(TARGET)/scale.json $(ARGS)

.PHONY: images
images: ## container images of static executables; ARGS="REGISTRY TAG"
	@scripts/images.sh $(ARGS)

.PHONY: lint
lint: peers-build ## formatting, clippy and documentation, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

.PHONY: clean
clean: ## remove everything that was built
	$(CARGO) clean

.PHONY: peers-build peers-test peers-bench
peers-build peers-test peers-bench: peers-%:
	@scripts/peers.sh $*
