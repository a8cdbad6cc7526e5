# Every task of this repository. `make demo` and `make test` need nothing prepared: they install what is missing,
# say what they do, and are quick the second time. The other targets expect that one of the two ran before.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Built things live outside the checkout, so that a fresh clone builds warm.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/headwater/target
export PATH := $(HOME)/.cargo/bin:$(PATH)

# RocksDB is the largest single build, and a change of features anywhere would repeat it: `.ci/setup` compiles it once.
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
export ROCKSDB_LIB_DIR ?= $(HOME)/.cache/headwater/rocksdb-$(ROCKSDB_VERSION)
export ROCKSDB_STATIC := 1

KILLS ?= 1000

.PHONY: crash fuzz help demo test retest check slt complete compat bench docs release up down ci shell clean

help: ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

demo: ## A server with live data and views; shows one of them changing and how to join in with psql.
	@.ci/setup demo
	@echo '==> building headwater'
	cargo build --workspace --bin headwater
	@$(CARGO_TARGET_DIR)/debug/headwater demo

# All but `system`, whose tests run one at a time.
TESTS := --lib --bins --test all --test aggregates --test engine --test docs --test tidy --test suites --test random_queries --test tpch --test nexmark --test bounded --test wire --test fuzz --test kafka

test: ## Every crate, every suite, a real Kafka and kills, the SQL of the pages, the rules. What CI runs.
	@.ci/setup test
	@echo '==> building and running the tests'
	@status=0; \
	bench/services/postgres.sh status >/dev/null 2>&1 && kept=1 || kept=0; \
	cargo test --workspace --no-fail-fast $(TESTS) || status=1; \
	echo '==> testing the server program: kills, failures, a broker, clients, the protocol'; \
	cargo test -p slt --no-fail-fast --test system -- --test-threads 1 || status=1; \
	if [ $$kept = 0 ]; then bench/services/postgres.sh stop; fi; \
	exit $$status

retest: ## One test by its whole name: make retest NAME=kills::nothing_is_lost_and_nothing_is_there_twice
	cargo test --workspace --no-fail-fast $(TESTS) --test system -- --exact '$(NAME)'

crash: ## Kills of server, broker and Postgres while everything flows through them: make crash KILLS=1000
	HEADWATER_TEST_CRASHES=$(KILLS) cargo test -p slt --test system -- --nocapture --exact \
		crash::nothing_is_lost_and_nothing_is_there_twice_from_end_to_end

fuzz: ## Broken bytes for so long: make fuzz TARGET=sql::sql FUZZ_SECONDS=3600 SEED=7; without TARGET each target in turn.
	HEADWATER_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) HEADWATER_FUZZ_SEED=$(or $(SEED),1) nice -n 10 cargo test -p frontend --test fuzz -- --nocapture \
		--test-threads 1 $(if $(TARGET),--exact $(TARGET))

check: ## Formatting and lints.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

slt: ## One suite: make slt FILE=stream/join/inner.slt
	cargo test -p slt --test suites -- $(FILE:.slt=)

complete: ## Rewrite the expected output of one suite: make complete FILE=stream/join/inner.slt
	cargo run -q -p slt -- --complete sqllogictest/suites/$(FILE)

compat: ## The compat suites on a real Postgres.
	cargo run -q -p slt -- --against postgres sqllogictest/suites/compat

release: ## The optimised binary.
	cargo build --release --workspace --bin headwater

bench: ## The numbers of bench/results: make bench, one of them: make bench Q=lookup; beside other engines: make bench Q=q4,q5 ENGINES=headwater,flink
	cargo build --release --workspace --bin headwater --example latency
	@if [[ -n "$(LANE)$(ENGINES)" || "$(Q)" = q[0-9]* ]]; then bench/compare.py $(if $(Q),--queries $(Q)) $(if $(LANE),--lane $(LANE)) \
	  $(if $(ENGINES),--engines $(ENGINES)) $(if $(EVENTS),--events $(EVENTS)) $(if $(RUNS),--runs $(RUNS)) $(if $(OUT),--out $(OUT)); \
	else bench/run.py $(Q); fi

docs: ## The documentation of all crates, and the SQL of README and docs/ run as tests.
	cargo doc --workspace --no-deps
	cargo test -p slt --test docs

up: ## Start an outside system for experiments: make up S=kafka
	bench/services/$(S).sh start

down: ## Stop it again: make down S=kafka
	bench/services/$(S).sh stop

ci: ## What CI runs.
	.ci/run

shell: ## A shell in which plain cargo builds as these targets do.
	@$${SHELL:-bash}

clean: ## Forget everything that was built.
	cargo clean
