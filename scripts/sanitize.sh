#!/bin/sh
# The tests of the CPU kernels under AddressSanitizer: every unsafe kernel of this processor on odd shapes, and what it reads
# and writes outside its memory. Needs a nightly toolchain (rustup toolchain install nightly); five minutes on two cores.
#
#     scripts/sanitize.sh [FILTER]      # [default: cpu::]
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
# The target is named so that build scripts and macros are not sanitised too. The folder: its flags would throw away what
# other commands have built.
RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=${SANITIZE_TARGET_DIR:-target/sanitize} \
    cargo +nightly test --no-default-features --lib --target "$host" "${1:-cpu::}"
