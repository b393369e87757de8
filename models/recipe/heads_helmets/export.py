"""Writes a trained network as ONNX, opset 17, of fixed size.

    python export.py DIR/small.pt --data DIR2 --out heads_helmets_small.onnx

Input `images` `[1, 3, px, px]`, RGB in 0..1. Output `output0` `[1, 4 + classes, cells]`: rows cx, cy, w, h in pixels of
the input, then the scores: the form of the YOLOv8 family. Batch norms are folded into the convolutions. Centre and size
depend linearly on the distances to the sides, so that step is folded into the last convolutions too: what is left of
the decoding is one addition of the cells' places and one sigmoid. Weights are stored as half floats, each with a cast
to float that a runtime folds when it loads.
"""

import argparse
import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import evaluate
import prepare
import train
from network import STRIDES, cells, fold_batch_norms

OPSET = 17


class Exported(nn.Module):
    def __init__(self, network, input_px):
        super().__init__()
        self.network = fold_batch_norms(network)
        points, _ = cells(input_px, input_px)
        places = torch.zeros(1, 4, len(points))
        places[0, :2] = points.T
        self.register_buffer("places", places)
        for head, stride in zip(network.heads, STRIDES):
            # Rows cx - point, cy - point, w, h from the distances left, top, right, bottom in cells.
            linear = stride * torch.tensor([[-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5], [1, 0, 1, 0], [0, 1, 0, 1]])
            head.box.weight.data = torch.einsum("ij,jchw->ichw", linear, head.box.weight.data)
            head.box.bias.data = linear @ head.box.bias.data

    def forward(self, pixels):
        boxes, scores = self.network.flat_maps(pixels)
        return torch.cat([boxes + self.places, scores.sigmoid()], 1)


def halved(model):
    """Stores float weights of 64 numbers and more as half floats with a cast behind."""
    casts, kept = [], []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < 64 or weight.name == "places":
            kept.append(weight)
            continue
        stored = f"{weight.name}.f16"
        kept.append(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(casts + nodes)
    return model


def write(checkpoint, names, out):
    loaded = train.load_averaged(checkpoint, len(names))
    px = loaded.input_px
    exported = Exported(loaded.network, px).eval()
    # The network is traced at one size on purpose.
    warnings.simplefilter("ignore")
    torch.onnx.export(
        exported,
        (torch.zeros(1, 3, px, px),),
        str(out),
        input_names=["images"],
        output_names=["output0"],
        opset_version=OPSET,
        dynamo=False,
    )
    model = halved(onnx.load(out))
    model.graph.name = out.stem
    entries = {
        "task": "detect",
        "names": str(dict(enumerate(names))),
        "stride": str(max(STRIDES)),
        "imgsz": str([px, px]),
        "licence": "MIT OR Apache-2.0",
        # Heads seldom hide each other by half: what overlaps more is the same one found twice.
        "score_threshold": "0.3",
        "iou_threshold": str(evaluate.OVERLAP),
    }
    helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
    content = out.read_bytes()
    print(f"{out}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(args.checkpoint, prepare.class_names(args.data), args.out)


if __name__ == "__main__":
    main()
