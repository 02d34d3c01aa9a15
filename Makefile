# Everything a newcomer needs. `make` alone lists it.

TARGET := $(or $(CARGO_TARGET_DIR),target)
SETUP  := tests/setup/install
PYTHON := $(TARGET)/venv/bin/python
ARGS   ?=

# What `komainu --version` tells, a + behind it if there are changes. Sources without git's directory know of none.
export KOMAINU_COMMIT := $(or $(KOMAINU_COMMIT),$(shell git --git-dir=.git describe --always --abbrev=12 --dirty=+ --exclude='*' 2>/dev/null),unknown)

.DEFAULT_GOAL := help
.PHONY: help sandbox release test test-upgrade test-terraform test-package test-image simulate torture bench bench-scale fix fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What makes a sandbox one before a double of AWS, which is a Python program. komainu looks for it beside its build.
AWS := --aws elastic-ip route53 route-table secondary-ip

# Built with optimisation: people run pgbench against it, and `make bench` uses the same build.
sandbox: ## Run PostgreSQL servers and three komainu nodes on this machine until Ctrl-C (ARGS="--standbys 3 --port 5433")
	@$(SETUP) compiler rust postgresql $(if $(foreach word,$(AWS),$(findstring $(word),$(ARGS))),python $(TARGET)/venv)
	cargo build --release --locked --bin komainu
	@exec $(TARGET)/release/komainu sandbox $(ARGS)

# Every server and client program of the tests is the one in PG_BIN, if it is given.
test: ## Run every check and test (PG_BIN=/path/to/postgresql/bin for another version)
	@$(SETUP) compiler rust rust-tools postgresql pgbouncer iproute2
	@$(SETUP) python $(TARGET)/venv
	cargo fmt --all --check
	cargo clippy --workspace --locked --all-targets -- -D warnings
	KOMAINU_TEST_PYTHON=$(abspath $(PYTHON)) cargo test --workspace --locked --all-targets
	@$(MAKE) --no-print-directory test-upgrade
	@$(MAKE) --no-print-directory test-terraform
	@$(MAKE) --no-print-directory test-package

# The version before is built beside this one, once: two to three minutes.
test-upgrade: ## Upgrade a running cluster from the last release, else the commit before, and back (FROM=REVISION, b2a88b7 or later)
	@$(SETUP) compiler rust postgresql
	previous=$$(tests/setup/previous $(FROM)) && { [ -z "$$previous" ] || KOMAINU_TEST_PREVIOUS=$$previous \
		cargo test --workspace --locked --test integration nodes_become_another_version; }

test-terraform: ## Check terraform/ with the real terraform, without an AWS account
	@$(SETUP) compiler rust postgresql aws jq python $(TARGET)/venv terraform $(TARGET)/terraform-checks
	cargo test --workspace --locked --no-run
	$(TARGET)/terraform-checks/venv/bin/python tests/terraform/check.py --work $(TARGET)/terraform-checks \
		--moto-python $(PYTHON) --komainu $(TARGET)/debug/komainu

test-package: ## Look through what `make release` makes, of the binary that the tests use
	@$(SETUP) compiler rust terraform $(TARGET)/terraform-checks
	cargo test --workspace --locked --no-run
	$(TARGET)/terraform-checks/venv/bin/python tests/image/package.py --work $(TARGET)/image --komainu $(TARGET)/debug/komainu

# Takes some ten minutes, the first time two more.
test-image: ## Make the image of ami/, boot what terraform/ makes of it, and break it (as root)
	@$(SETUP) compiler rust postgresql iproute2 aws jq image python $(TARGET)/venv terraform $(TARGET)/terraform-checks
	cargo test --workspace --locked --no-run
	$(TARGET)/terraform-checks/venv/bin/python tests/image/check.py --work $(TARGET)/image --checks $(TARGET)/terraform-checks \
		--moto-python $(PYTHON) --komainu $(TARGET)/debug/komainu

# For Debian 12 and newer, built on it or on something with an older C library. The first build takes a quarter of an hour.
release: ## Build binary, Debian package, checksums and bill of materials (in target/dist)
	@$(SETUP) compiler rust
	cargo build --release --locked --bin komainu
	@ami/release --binary $(TARGET)/release/komainu --output $(TARGET)/dist

# Nights of a cluster with faults, drawn from a seed; `make test` runs some of them.
simulate: ## Simulate bad nights of three nodes, and of three with servers (SEEDS=1000, or SEED=17 for one that failed)
	@$(SETUP) compiler rust
	KOMAINU_SEEDS=$(or $(SEEDS),1000) $(if $(SEED),KOMAINU_SEED=$(SEED)) cargo test --workspace --locked --lib a_bad_night -- --nocapture

# As root: the faults include cut wires. `make test` runs a short one.
torture: ## Break a real cluster at random under clients that check it (MINUTES=10, SEED=17 for the same faults again)
	@$(SETUP) compiler rust postgresql iproute2
	KOMAINU_TORTURE_MINUTES=$(or $(MINUTES),10) $(if $(SEED),KOMAINU_SEED=$(SEED)) cargo test --workspace --locked --test integration what_clients_were_told -- --nocapture

bench: ## Compare with PostgreSQL, PgBouncer and Pgpool-II (ARGS="--quick", PGBOUNCER=/path)
	@$(SETUP) compiler rust postgresql
	cargo build --release --locked --bin komainu
	python3 tests/bench/bench.py --komainu $(TARGET)/release/komainu --work $(TARGET)/bench $(ARGS)

bench-scale: ## Measure reads over one to five servers, each slowed on purpose
	@$(SETUP) compiler rust postgresql
	cargo build --release --locked --bin komainu
	python3 tests/bench/scale.py --komainu $(TARGET)/release/komainu --work $(TARGET)/bench $(ARGS)

fix: ## Format, apply what clippy can repair, and write docs/metrics.md anew
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	KOMAINU_WRITE_MANUAL=1 cargo test --workspace --locked --lib the_manual_is_what_the_catalogue_says

FUZZ_TARGETS := wire scram replies classify

# cargo-fuzz needs options of the compiler that only RUSTC_BOOTSTRAP or a nightly toolchain allows.
fuzz: ## Fuzz wire protocol, SCRAM, replies and classifier, a minute each (ARGS="-max_total_time=600")
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: run 'cargo install --locked cargo-fuzz'" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target -- $(or $(ARGS),-max_total_time=60) || exit 1; \
	done
