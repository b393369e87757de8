#!/usr/bin/env bash
# Builds eyas for the Raspberry Pi Zero (static ARMv6, no wgpu) and compares what it finds on a photo with this machine.
# Needs Debian's rustc-web, rust-web-src, cargo-web, lld, qemu-user; ziglang and cargo-zigbuild in .ci/venv.
#
#   scripts/pi_zero.sh MODELS_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
models=$1
target=arm-unknown-linux-musleabihf
(
  # rustup's toolchain has no std for this target; Debian's second toolchain brings the sources to build one.
  unset RUSTUP_TOOLCHAIN
  export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1 PATH="$PWD/.ci/venv/bin:/usr/bin:$PATH"
  export RUSTFLAGS="-C target-cpu=arm1176jzf-s -C link-self-contained=no"
  cargo zigbuild -Zbuild-std=std,panic_abort --release --no-default-features --target "$target" --target-dir target/pi_zero
)
zero=target/pi_zero/$target/release/eyas
strip_size() { stat -c %s "$1"; }
echo "Pi Zero binary: $(strip_size "$zero") bytes"
file=$models/photos/dog.jpg
net=$models/models/darknet/yolo-fastest-1.1_coco/yolo-fastest-1.1.cfg
time qemu-arm -cpu arm1176 "$zero" detect "$file" -m "$net" --backend cpu --threads 1 --json > target/zero.json
target/release/eyas detect "$file" -m "$net" --backend cpu --threads 1 --json > target/here.json
.ci/venv/bin/python - <<'PY'
import json
zero, here = (json.load(open(f"target/{n}.json"))["detections"] for n in ("zero", "here"))
assert here, "nothing was found on this machine"
assert len(zero) == len(here), (zero, here)
for a, b in zip(zero, here):
    assert a["class"] == b["class"] and abs(a["score"] - b["score"]) < 1e-3, (a, b)
    assert all(abs(x - y) < 0.1 for x, y in zip(a["box"], b["box"])), (a, b)
print(f"the same {len(here)} detections on ARMv6 and here")
PY
