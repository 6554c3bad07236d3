# What a fresh Debian or Ubuntu machine with git and Rust needs: `make demo`, `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
DATA ?= .autovibe

.PHONY: help deps agents build images test test-fast test-real lint fmt crds demo clean-demo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

deps: ## installs by apt what is missing of images/dependencies.txt
	@images/install-dependencies

agents: ## installs the agents that the tests drive into target/agents, by npm and pip
	@images/install-agents target/agents

build: ## builds the executable
	$(CARGO) build --locked

images: build deps ## builds the guests' disk images, unless they are there
	target/debug/autovibe image build micro --data $(DATA)
	target/debug/autovibe image build debian --data $(DATA)

demo: deps build ## A --"Add authentication"--> B --"Add tests"--> C, with the real Claude Code in real VMs
	target/debug/autovibe demo --data $(DATA)

test-fast: build ## cargo's tests; those with a micro guest skip aloud where it cannot run
	$(CARGO) test --locked

test-real: deps build ## the quickstart and the rehearsal to their ends, with real guests
	target/debug/autovibe demo --replay --fresh --data target/quickstart
	target/debug/autovibe demo --replay --fresh --data target/quickstart --examples examples/rehearsal

test: deps agents ## all tests
	$(MAKE) test-fast
	$(MAKE) test-real

lint: ## formatting and clippy, as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## formats everything
	$(CARGO) fmt

clean-demo: ## ends the demo's lab and removes all it made
	target/debug/autovibe lab remove --data $(DATA)
	rm -rf $(DATA)
