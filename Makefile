# What people and machines type. Everything that is missing is installed, and said before it is.

.PHONY: demo test test-long lint clean

# Real virtual machines on a network of their own (some minutes). KEEP=1: stays up afterwards.
demo:
	scripts/needs demo
	cargo build --locked -p ipvisor -p lab
	@$${CARGO_TARGET_DIR:-target}/debug/demo

# Everything: unit, property, driver and guest level.
test:
	scripts/needs test
	scripts/faults
	cargo build --locked --workspace
	cargo build --locked --release -p ipvisor
	scripts/test --workspace
	crates/virtqueue/sanitize.sh
	fuzz/run.sh

# What takes too long for every change, too.
test-long:
	scripts/needs test
	scripts/faults
	cargo build --locked --workspace
	cargo build --locked --release -p ipvisor
	scripts/test --workspace --features lab/long
	crates/virtqueue/sanitize.sh
	SECONDS_EACH=120 fuzz/run.sh

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
