#!/usr/bin/env python3
"""Runs small Darknet networks with random weights through `eyas run` and the reference in numpy, on every backend.

    python scripts/darknet_sections.py
    python scripts/darknet_sections.py --runs cpu:f32 vulkan:f32 --only local xnor

Every section, key and activation that eyas knows occurs in one of the networks below, with odd sizes and 1, 3, 5, 7 and 13
channels. The reference (reference/darknet.py) is written apart from eyas, in f64. Exit code 1 if anything differs by more
than the tolerance, which is over the output's largest value.
"""

import argparse
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import darknet  # noqa: E402
import program  # noqa: E402

TOLERANCES = {"f32": 1e-5, "f16": 2e-2}

NET = "[net]\nwidth={w}\nheight={h}\nchannels={c}\n"


def net(c, h, w, *sections):
    """A cfg; sections are written `conv filters=3 size=3`."""
    lines = [NET.format(c=c, h=h, w=w)]
    for section in sections:
        kind, *keys = section.split()
        lines += [f"[{kind}]", *keys]
    return "\n".join(lines) + "\n"


def cases():
    conv = "convolutional filters={} size={} pad=1 activation={}"
    yield "strides", net(3, 13, 11, conv.format(5, 3, "leaky") + " stride=2 batch_normalize=1",
                         conv.format(7, 3, "mish") + " stride_x=2 stride_y=1 batch_normalize=1")  # fmt: skip
    yield "depthwise", net(5, 9, 7, conv.format(5, 5, "swish") + " groups=5 batch_normalize=1")
    yield "grouped", net(6, 7, 9, conv.format(9, 3, "relu6") + " groups=3")
    yield "dilated", net(3, 11, 13, conv.format(4, 3, "relie") + " dilation=2")
    yield "padding", net(1, 7, 7, "conv filters=3 size=3 padding=2 activation=relu stride=2")
    yield "flipped", net(3, 5, 7, conv.format(7, 3, "linear") + " flipped=1 batch_normalize=1")
    yield "shared", net(5, 7, 5, conv.format(5, 3, "leaky") + " batch_normalize=1",
                        conv.format(5, 3, "logistic") + " batch_normalize=1 share_index=-1")  # fmt: skip
    for kind in (1, 2):
        yield f"antialiased_{kind}", net(3, 9, 11, conv.format(5, 3, "leaky") + f" stride=2 antialiasing={kind}",
                                         f"maxpool size=2 stride=2 antialiasing={kind}")  # fmt: skip
    yield "xnor", net(3, 9, 7, conv.format(13, 3, "leaky") + " batch_normalize=1",
                      conv.format(5, 3, "leaky") + " xnor=1 batch_normalize=1 stride=2",
                      conv.format(7, 3, "linear") + " xnor=1 bin_output=1")  # fmt: skip
    yield "xnor_after_relu", net(3, 5, 5, conv.format(7, 3, "relu"), conv.format(3, 1, "linear") + " xnor=1")
    yield "binary", net(3, 5, 7, conv.format(7, 3, "tanh") + " binary=1 batch_normalize=1")
    for size, stride in ((2, 2), (2, 1), (3, 2), (5, 1), (9, 1), (13, 1)):
        yield f"maxpool_{size}_{stride}", net(5, 13, 11, f"maxpool size={size} stride={stride}")
        yield f"local_avgpool_{size}_{stride}", net(3, 13, 11, f"local_avgpool size={size} stride={stride}")
    yield "maxpool_strides", net(1, 13, 11, "maxpool size=3 stride_x=1 stride_y=3 padding=1")
    yield "maxpool_depth", net(13, 3, 5, "maxpool maxpool_depth=1 out_channels=5 stride=1")
    yield "maxpool_depth_even", net(12, 3, 5, "maxpool maxpool_depth=1 out_channels=4 stride=1")
    yield "avgpool", net(7, 5, 3, "avgpool")
    yield "upsample", net(3, 5, 7, "upsample stride=2 scale=1.5", "upsample stride=3")
    yield "downsample", net(5, 6, 4, "upsample stride=-2 scale=0.5")
    yield "route", net(5, 7, 5, conv.format(13, 3, "leaky"), conv.format(3, 1, "linear"), "route layers=-1,0,-2",
                       conv.format(6, 1, "relu"), "route layers=-1 groups=2 group_id=1", "route layers=-1,3 groups=3")  # fmt: skip
    yield "shortcut", net(5, 7, 9, conv.format(7, 3, "linear"), conv.format(3, 3, "linear"),
                          "shortcut from=0 activation=leaky", conv.format(13, 1, "linear"), "shortcut from=-2")  # fmt: skip
    yield "shortcut_many", net(5, 7, 9, conv.format(5, 3, "linear"), conv.format(7, 3, "linear"),
                               conv.format(7, 3, "linear"), "shortcut from=-2,-3 activation=mish")  # fmt: skip
    for kind in ("per_feature", "per_channel"):
        for how in ("none", "relu", "softmax"):
            yield f"shortcut_{kind}_{how}", net(3, 5, 7, conv.format(5, 3, "linear"), conv.format(5, 3, "linear"),
                conv.format(5, 3, "linear"),
                f"shortcut from=-2,-3 activation=leaky weights_type={kind} weights_normalization={how}")  # fmt: skip
    yield "shortcut_larger", net(3, 8, 12, conv.format(5, 3, "linear"), "maxpool size=2 stride=2",
                                 conv.format(7, 3, "linear"), "shortcut from=0 alpha=0.5 beta=2")  # fmt: skip
    yield "shortcut_smaller", net(3, 8, 12, conv.format(7, 3, "linear"), "maxpool size=2 stride=2",
                                  conv.format(5, 3, "linear"), "route layers=0", "shortcut from=-2 alpha=0.5 activation=relu")  # fmt: skip
    yield "scale_channels", net(5, 7, 3, conv.format(7, 3, "linear"), "avgpool", conv.format(7, 1, "logistic"),
                                "scale_channels from=0 activation=leaky")  # fmt: skip
    yield "scale_pixels", net(5, 7, 3, conv.format(7, 3, "linear"), conv.format(1, 1, "logistic"),
                              "scale_channels from=0 scale_wh=1")  # fmt: skip
    yield "sam", net(3, 7, 5, conv.format(13, 3, "linear"), conv.format(13, 1, "logistic"), "sam from=-2")
    for kind in ("reorg", "reorg3d"):
        yield kind, net(8, 26, 4, f"{kind} stride=2")
        yield f"{kind}_3", net(9, 6, 3, f"{kind} stride=3")
        yield f"{kind}_reverse", net(16, 3, 5, f"{kind} stride=2 reverse=1")
    yield "batchnorm", net(5, 3, 7, "batchnorm", "dropout", "cost", "empty", "silence", "contrastive")
    yield "connected", net(3, 5, 7, "connected output=13 activation=elu batch_normalize=1", "connected output=5")
    yield "local", net(3, 7, 9, "local filters=5 size=3 stride=1 pad=1 activation=leaky")
    yield "local_stride", net(5, 9, 7, "local filters=7 size=3 stride=2 pad=0 activation=ramp")
    yield "local_point", net(7, 3, 5, "local filters=1 size=1 activation=linear")
    yield "crop", net(3, 13, 11, "crop crop_width=6 crop_height=9", conv.format(5, 3, "leaky"))
    yield "crop_noadjust", net(3, 9, 9, "crop crop_width=5 crop_height=3 noadjust=1", conv.format(5, 3, "leaky"))
    yield "normalization", net(13, 3, 5, "normalization size=5 alpha=0.01")
    yield "normalization_even", net(7, 5, 3, "lrn size=4 alpha=0.1 beta=0.5 kappa=2")
    yield "softmax", net(6, 1, 3, "softmax groups=3 temperature=0.5")
    yield "softmax_spatial", net(5, 3, 7, "softmax spatial=1")
    yield "implicit", net(3, 5, 7, conv.format(7, 3, "linear"), "implicit filters=7", "scale_channels from=0")
    yield "implicit_sum", net(3, 5, 1, conv.format(7, 3, "linear"), "implicit filters=7 atoms=5", "shortcut from=0")
    for name in sorted(darknet.ACTIVATIONS):
        yield f"activation_{name}", net(3, 5, 7, conv.format(7, 3, name), f"activation activation={name}")
    anchors = "anchors=4,5,6,7,9,12"
    yield "head_yolo", net(3, 9, 7, conv.format(14, 3, "linear"), f"yolo mask=0,1 {anchors} num=3 classes=2",
                           "route layers=-2", "upsample", conv.format(7, 1, "linear"),
                           f"yolo mask=2 {anchors} num=3 classes=2 scale_x_y=1.1 nms_kind=greedynms beta_nms=0.6")  # fmt: skip
    yield "head_gaussian", net(1, 8, 4, conv.format(11, 3, "linear"), "Gaussian_yolo anchors=4,5 num=1 classes=2")
    yield "head_region", net(3, 8, 8, conv.format(4, 3, "leaky"), "reorg stride=2", conv.format(16, 1, "linear"),
                             "region anchors=1,2,3,4 num=2 classes=3 coords=4 softmax=1")  # fmt: skip
    yield "head_detection", net(3, 9, 9, conv.format(5, 3, "leaky"), "maxpool stride=2",
                                "connected output=48 activation=linear",
                                "detection side=2 num=2 classes=2 coords=4 sqrt=1")  # fmt: skip
    yield "head_detection_map", net(3, 3, 3, conv.format(7, 3, "linear"), "detection side=3 num=1 classes=2 coords=4")


def drawn(seed):
    """Numbers that keep the values of a network near 1."""
    random = np.random.default_rng(seed)

    def draw(count, role):
        if role in ("variance", "scales"):
            return random.uniform(0.5, 1.5, count)
        return random.normal(0, 0.5, count)

    return draw


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--runs", nargs="+", default=["cpu:f32", "vulkan:f32"], help="BACKEND:PRECISION")
    parser.add_argument("--only", nargs="+", help="networks whose name begins so")
    options = parser.parse_args()
    failed = done = 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for number, (name, cfg) in enumerate(cases()):
            if options.only and not any(name.startswith(prefix) for prefix in options.only):
                continue
            path = folder / f"{name}.cfg"
            path.write_text(cfg)
            network = darknet.Network(path, drawn(number))
            x = np.random.default_rng(number).random((1, *network.shape), np.float32)
            expected = network.forward(x)
            # Old files and new ones in turn.
            header = struct.pack("<iiiI", 0, 1, 0, 7) if number % 2 else struct.pack("<iiiQ", 0, 2, 5, 7)
            floats = np.concatenate([np.zeros(0, np.float32), *network.written]).astype("<f4")
            path.with_suffix(".weights").write_bytes(header + floats.tobytes())
            np.save(folder / "x.npy", x)
            for run in options.runs:
                api, precision = run.split(":")
                backend = ["--backend", "cpu"] if api == "cpu" else ["--backend", "gpu", "--gpu-api", api]
                done += 1
                try:
                    program.call(
                        options.eyas, "run", "-m", path, "--input", f"input={folder / 'x.npy'}",
                        "--output-dir", folder / "out", *backend, "--precision", precision,
                    )  # fmt: skip
                    difference = 0.0
                    for value, wanted in expected.items():
                        ours = np.load(folder / "out" / f"{value}.npy")
                        if ours.shape != wanted.shape:
                            raise program.Failed(f"{value} has the shape {ours.shape}, not {wanted.shape}")
                        one = np.abs(ours - wanted).max() / max(np.abs(wanted).max(), 1e-30)
                        difference = max(difference, one if np.isfinite(one) else np.inf)
                        (folder / "out" / f"{value}.npy").unlink()
                    verdict = f"{difference:.1e}"
                    worst = max(worst, difference)
                    wrong = not difference <= TOLERANCES[precision]
                except (program.Failed, FileNotFoundError) as error:
                    verdict, wrong = str(error), True
                failed += wrong
                if wrong or options.only:
                    print(f"{name} {run}: {verdict}{' **miss**' if wrong else ''}", flush=True)
    print(f"{done - failed} of {done} agree; largest difference {worst:.1e} of the output's largest value")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
