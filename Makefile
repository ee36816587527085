# What people and machines type. Everything that is missing is installed, and said before it is.

.PHONY: demo survive bench count test test-long lint build install uninstall deb clean

# Real virtual machines on a network of their own (some minutes). KEEP=1: stays up afterwards.
demo:
	scripts/needs demo
	cargo build --locked -p ipvisor -p lab
	@$${CARGO_TARGET_DIR:-target}/debug/demo

# The base is killed again and again under running machines (DURATION= seconds).
survive: DURATION ?= 600
survive:
	scripts/needs test
	scripts/faults
	@$${CARGO_TARGET_DIR:-target}/debug/survive --ports 1000
	@$${CARGO_TARGET_DIR:-target}/debug/survive --seconds $(DURATION)

# Beside its peers: OVS-DPDK, testpmd, the kernel (a quarter of an hour; QUICK=1: four minutes).
bench:
	scripts/needs bench
	cargo build --locked --release -p ipvisor
	cargo build --locked --release -p bench --bin bench
	@$${CARGO_TARGET_DIR:-target}/release/bench

# Instructions of the base for a datagram, compared with bench/instructions.toml (WRITE=1: written).
count:
	scripts/needs test
	bench/instructions.sh $(if $(WRITE),write,check)

# Everything: unit, property, driver and guest level.
test:
	scripts/needs test
	scripts/faults
	scripts/test --workspace
	$${CARGO_TARGET_DIR:-target}/debug/survive --seconds 60 --slack 10
	scripts/matrix pairwise
	bench/instructions.sh check
	crates/virtqueue/sanitize.sh
	fuzz/run.sh

# What takes too long for every change, too.
test-long:
	scripts/needs test
	scripts/faults
	scripts/test --workspace --features lab/long
	$${CARGO_TARGET_DIR:-target}/debug/survive --ports 1000
	$${CARGO_TARGET_DIR:-target}/debug/survive --seconds 600
	SECONDS_EACH=60 scripts/matrix all
	bench/instructions.sh check
	crates/virtqueue/sanitize.sh
	SECONDS_EACH=120 fuzz/run.sh

# The program as it is shipped, its manual pages and its completions.
build:
	cargo build --locked --release -p ipvisor
	cargo run --locked --quiet --release -p ipvisor --example generate -- $${CARGO_TARGET_DIR:-target}/generated

# All of that below PREFIX (/usr/local); DESTDIR= for packages.
install: build
	PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install

uninstall:
	PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install remove

# A Debian package, in target/deb.
deb: build
	scripts/deb

# Form, warnings, links in the documentation, licences.
lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features lab/long -- -D warnings
	cargo clippy --locked -p ipvisor --features fault-injection -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo fetch --locked
	cargo deny --offline check licenses bans sources

clean:
	cargo clean
