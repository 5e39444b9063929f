# Everything this project is built, tested and shown with; `make help` lists it.
# ENVOY=/path and REDIS_SERVER=/path use programs of your own; WASM_TOOLCHAIN=rustup|debian forces one way to the wasm.

CARGO ?= cargo
ENVOY_VERSION ?= 1.40.0
WASM_TOOLCHAIN ?=
PREFIX ?= /usr/local
DESTDIR ?=

# Not `?=`: an empty variable means the default too. The last path of each is where setup puts its own.
override ENVOY := $(or $(ENVOY),$(CURDIR)/.venv/envoy)
override REDIS_SERVER := $(or $(REDIS_SERVER),$(shell command -v redis-server 2>/dev/null),$(CURDIR)/.venv/redis-server)
SLOTGATE_WASM := $(CURDIR)/target/slotgate.wasm

export CARGO ENVOY ENVOY_VERSION REDIS_SERVER SLOTGATE_WASM WASM_TOOLCHAIN

# Under -j two setups would fight for apt.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup setup-rust wasm cli install dist check test test-metrics dashboard test-console test-upgrade test-matrix test-oldest compose-images test-compose chaos fuzz soak mutate bench bench-peers bench-console bench-ledger bench-queue bench-streams bench-curves bench-memory bench-scale demo up down clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## get what is missing: Envoy, Redis, Prometheus, wrk, openssl, valgrind, the wasm target, rustfmt, clippy
	@scripts/setup.sh

setup-rust:
	@scripts/setup.sh rust

wasm: setup-rust ## build target/slotgate.wasm
	@scripts/wasm.sh

cli: ## build target/release/slotgate, the command line
	$(CARGO) build --release --features cli --bin slotgate

install: wasm cli ## install command line, wasm, completions and manual pages below PREFIX=/usr/local, in DESTDIR if that is set
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install.sh

dist: setup-rust ## build twice, compare, and write what is released to target/dist
	@scripts/dist.sh

check: setup-rust ## format, lints, the purity of everything outside src/host, and the documents
	@scripts/check.sh

test: setup wasm ## all tests, against a real Redis and a real Envoy
	@tests/run.sh
	@tests/guard.sh

test-metrics: setup wasm ## metrics, access log, traces, dashboard and alerts alone (two minutes)
	$(CARGO) test --test metrics
	$(CARGO) test --test e2e -- metrics:: access_log::

dashboard: setup wasm ## draw envoy/grafana/run.svg from a real run (three minutes)
	$(CARGO) test --test metrics picture -- --ignored

test-console: setup wasm ## the console in a headless Chromium; screenshots go to target/console (three minutes)
	@scripts/setup.sh browser
	$(CARGO) build --example console-stage
	/usr/bin/python3 tests/console/browser.py $${CARGO_TARGET_DIR:-target}/debug/examples/console-stage target/console \
		.venv/axe/axe_playwright_python/axe.min.js

test-upgrade: setup wasm ## this filter beside the previous release's, built from git, on one Redis (three minutes)
	@tests/upgrade.sh

test-matrix: setup wasm ## the end-to-end tests against Envoy 1.36 to 1.40, a table (ten minutes); VERSIONS="1.38.2" chooses
	@tests/matrix.sh

test-oldest: setup wasm ## a part of them against the oldest of these (four minutes)
	@tests/matrix.sh oldest

compose-images: setup ## make the images of envoy/docker-compose.yaml from Debian's packages, where none can be pulled
	@scripts/setup.sh compose
	@tests/compose-images.sh

test-compose: setup wasm ## envoy/docker-compose.yaml on a Docker engine, with an Envoy cut off from Redis (two minutes)
	@tests/compose.sh

chaos: setup wasm ## every fault under load on three Envoys, a table (five minutes); CHAOS=frozen runs those named so
	$(CARGO) test --test chaos every_fault -- --ignored --nocapture --test-threads 1

fuzz: ## every fuzz target for FUZZ_SECONDS each (60), with what `cargo fuzz` finds
	@scripts/setup.sh fuzz
	@tests/fuzz.sh

soak: setup ## the ledger against its model for a million random steps; every choice account by account (half an hour)
	MODEL_SEQUENCES=10000 $(CARGO) test --release --test ledger model -- --nocapture
	$(CARGO) test --release --test ledger choice -- --ignored --nocapture

mutate: setup ## invert and take out each guard of each Lua file: the tests must notice (half an hour)
	$(CARGO) run --example mutate

bench: wasm ## what the filter costs, beside Envoy without it and other ways to Redis (six minutes); ROWS=webdis some rows
	@scripts/setup.sh bench
	$(CARGO) run --release --example bench

bench-peers: wasm ## what a decision costs beside those of Limitador, webdis and LiteLLM (four minutes); ROWS=Limitador some rows
	@scripts/setup.sh bench-peers
	$(CARGO) build --release --manifest-path tests/bench/limitador/Cargo.toml --target-dir target/limitador
	$(CARGO) run --release --example bench -- peers

bench-console: setup wasm ## requests/s with consoles open, beside without (six minutes)
	$(CARGO) build --release --example console-stage
	python3 tests/console/cost.py $${CARGO_TARGET_DIR:-target}/release/examples/console-stage

bench-ledger: setup ## what the scripts cost Redis, beside what others do
	$(CARGO) run --example bench-ledger

bench-queue: setup wasm ## how fast a slot is handed on, and how busy slots are, beside clients that come back (two minutes)
	$(CARGO) run --release --example bench-queue

bench-streams: setup wasm ## what 20,000 streams in flight cost (four minutes)
	$(CARGO) run --release --example bench-streams

bench-curves: ## draw what bench and bench-streams have written: tests/bench/curves.svg
	tests/bench/curves.py >tests/bench/curves.svg

bench-memory: setup wasm ## memory over five million requests (fifteen minutes)
	$(CARGO) run --release --example bench-memory

bench-scale: setup ## a million leases on one Redis, and how pools spread over shards (two minutes)
	$(CARGO) run --release --example bench-scale

demo: setup wasm ## run the demo in the foreground
	$(CARGO) run --example demo -- run

up: setup wasm ## start the demo in the background and wait until it answers
	@scripts/demo.sh up

down: ## stop what `make up` started
	@scripts/demo.sh down

clean: down ## remove target and .run
	rm -rf target .run
	@test ! -e .venv || echo ".venv stays; make distclean removes it too"

distclean: clean ## remove .venv as well
	rm -rf .venv
