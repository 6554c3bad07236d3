# What a fresh Debian or Ubuntu machine with git and Rust needs: `make demo`, `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
DATA ?= .autovibe
# Files whose changes make the guest images stale are known to `autovibe image build` itself.

.PHONY: help deps build images test test-fast test-real lint fmt crds demo clean-demo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

deps: ## installs by apt what is missing of images/dependencies.txt
	@images/install-dependencies

build: ## builds the executable
	$(CARGO) build --locked

images: build deps ## builds the guests' disk images, unless they are there
	target/debug/autovibe image build micro --data $(DATA)
	target/debug/autovibe image build debian --data $(DATA)

demo: deps build ## A --"Add authentication"--> B --"Add tests"--> C, with the real Claude Code in real VMs
	target/debug/autovibe demo --data $(DATA)

test-fast: build ## tests that need no guests
	$(CARGO) test --locked

test-real: deps build ## real guests: boots the image, forks it, and runs the quickstart to its end
	target/debug/autovibe image build micro --data $(DATA)
	AUTOVIBE_TEST_REAL=1 $(CARGO) test --locked --test it -- --nocapture --test-threads=1 real::
	target/debug/autovibe demo --data $(DATA)-test

test: deps ## all tests
	$(MAKE) test-fast
	$(MAKE) test-real

lint: ## formatting and clippy, as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## formats everything
	$(CARGO) fmt

clean-demo: ## ends the demo's lab and removes all it made
	-target/debug/autovibe lab stop --data $(DATA)
	rm -rf $(DATA)
