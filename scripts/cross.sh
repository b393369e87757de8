#!/usr/bin/env bash
# What can be shown without the devices: type-checks for macOS, iOS and aarch64 Linux (Jetson, Raspberry Pi 3 and later),
# and a whole build for the last, of which the CPU half, with its NEON kernels, is run under emulation and compared with this
# machine. No GPU of those platforms is emulated.
# Needs Debian's rustc-web, rust-web-src, cargo-web, lld, qemu-user, libc6-arm64-cross, libgcc-s1-arm64-cross; ziglang and
# cargo-zigbuild in .ci/venv.
#
#   scripts/cross.sh check                    # type-checks; about 15 minutes of CPU time
#   scripts/cross.sh linux [PHOTO NETWORK]    # about 45 minutes of CPU time, so the gate leaves it out; target/release/eyas
#                                             # must be there; PHOTO NETWORK: compared beside this repository's network
#   scripts/cross.sh neon                     # every NEON kernel against its twin, those with dot products of bytes too, by the
#                                             # library's own tests
set -euo pipefail
cd "$(dirname "$0")/.."

# rustup's toolchain has no std for these targets; Debian's second toolchain brings the sources to build one.
debian_cargo() (
  unset RUSTUP_TOOLCHAIN
  export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1 PATH="$PWD/.ci/venv/bin:/usr/bin:$PATH"
  export CARGO_TARGET_DIR=target/cross
  "$@"
)

if [ "${1:-}" = check ]; then
  # Two crates compile Objective-C and assembly; a type-check does not link, so the objects need not be there.
  for target in aarch64_apple_darwin aarch64_unknown_linux_gnu; do
    export "CC_$target=/bin/true" "AR_$target=/bin/true"
  done
  for target in aarch64-apple-darwin aarch64-apple-ios aarch64-unknown-linux-gnu; do
    debian_cargo cargo check -Zbuild-std=std,panic_abort --target "$target" --lib --bin eyas --example metal_demo
    echo "$target: library, program and metal_demo type-check"
  done
  exit
elif [ "${1:-}" != linux ] && [ "${1:-}" != neon ]; then
  echo "usage: scripts/cross.sh check, scripts/cross.sh linux [PHOTO NETWORK], or scripts/cross.sh neon" >&2
  exit 2
fi
part=$1
shift

linux=aarch64-unknown-linux-gnu
glibc=2.31 # of JetPack 5
emulator=(qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)
# What eyas depends on is compiled in a hurry: what is shown here is that it builds and computes right, not its speed.
hurry=(--config 'profile.release.package."*".opt-level=1')
if [ "$part" = neon ]; then
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${emulator[*]}"
  debian_cargo cargo-zigbuild test -Zbuild-std=std,panic_abort,test --release "${hurry[@]}" --no-default-features \
    --target "$linux.$glibc" --lib cpu::
  exit
fi
debian_cargo cargo zigbuild -Zbuild-std=std,panic_abort --release "${hurry[@]}" --target "$linux.$glibc" --bin eyas
program=target/cross/$linux/release/eyas
echo "$linux: $(stat -c %s "$program") bytes"

compare() {
  "${emulator[@]}" "$program" detect "$1" -m "$2" --backend cpu --threads 1 --json >target/arm.json
  target/release/eyas detect "$1" -m "$2" --backend cpu --threads 1 --json >target/here.json
  .ci/venv/bin/python - <<'PY'
import json
arm, here = (json.load(open(f"target/{n}.json")) for n in ("arm", "here"))
print("under emulation:", arm["adapter"])
assert "neon" in arm["adapter"], "the NEON kernels did not run"
arm, here = arm["detections"], here["detections"]
assert here, "nothing was found on this machine"
assert len(arm) == len(here), (arm, here)
for a, b in zip(arm, here):
    assert a["class"] == b["class"] and abs(a["score"] - b["score"]) < 1e-3, (a, b)
    assert all(abs(x - y) < 0.1 for x, y in zip(a["box"], b["box"])), (a, b)
score = max(abs(a["score"] - b["score"]) for a, b in zip(arm, here))
box = max(abs(x - y) for a, b in zip(arm, here) for x, y in zip(a["box"], b["box"]))
print(f"the same {len(here)} detections on aarch64 and here: boxes within {box:.4f} px, scores within {score:.1e}")
PY
}
compare models/shapes_scene.png models/shapes.onnx
if [ $# -eq 2 ]; then
  compare "$1" "$2"
fi
