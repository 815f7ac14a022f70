# `make demo`: the main job on loopback, no root. `make test`: everything that can be tested here.
# `make bench`: the table of the README. `make check`: what must be clean before a commit.

.POSIX:
.PHONY: demo test bench check

demo:
	cargo run -- demo

test:
	sh lab/install-deps.sh
	sh lab/run-tests.sh

# WANIGAN_BIN: the benchmark measures the release build, from wherever the lab's own program runs.
# SCENARIOS: some of its scenarios by name, such as SCENARIOS="warm inserts"; all where none is named.
bench:
	sh lab/install-deps.sh
	cargo build --release --bin wanigan
	cargo build --release -p wanigan-lab --bin wanigan-bench
	target/release/wanigan-bench $(SCENARIOS)

check:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
