#!/usr/bin/env python3
"""Runs `eyas detect --json` on small networks that end in tables of boxes and scores, and compares with numpy.

    python scripts/table_heads.py
    python scripts/table_heads.py --eyas target/debug/eyas --backends cpu --only scrfd

Faces with landmarks, SSD with and without priors, rows of DetectionOutput, decoded tables, Yolo-FastestV2, maps of YOLOv2,
transformers, lists that a graph has chosen itself, classifiers; inputs without a batch and of bytes.
No trained weights are needed: each network is written here, with the outputs' names and shapes of the files it stands
for, and with random numbers as outputs. What they mean is computed in 64-bit floats from the outputs of ONNX Runtime,
apart from eyas. Also tried: networks that must be refused, with the reason. Exit code 1 on a difference.

Needs the packages of scripts/requirements.txt.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import program  # noqa: E402

# The picture has the size of the input, so that stretching and letterboxing are the same.
WIDTH, HEIGHT = 160, 96
BOX_TOLERANCE_PX = 0.02
SCORE_TOLERANCE = 1e-4
YOLO_FASTEST_V2_ANCHORS = [
    [(12.64, 19.39), (37.88, 51.48), (55.71, 138.31)],
    [(126.91, 78.23), (131.57, 214.55), (279.92, 258.87)],
]
TINY_YOLO_V2_ANCHORS = [(1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)]


# ---------------------------------------------------------------- networks


def network(path, outputs, size, constants=None, inputs=None, integers=None, keep_above=None, layout="nchw"):
    """Writes a network with these outputs: name -> (values, operator before the end).

    "Conv": the values are the bias of a convolution; "Sigmoid", "Softmax": applied to the values; "Add": the values;
    "Cast": the values as integers. `inputs`, `integers`: shapes of further inputs. `layout`: of the picture, "nchw", "chw", or
    "bytes" for [1, height, width, 3] of bytes.
    `constants`: outputs that do not depend on the picture. `keep_above`: the output is reduced to its rows [1, 1, k, 7] with
    a larger score, so that its size is only known when it is computed.
    """
    nodes = {
        "nchw": [helper.make_node("Identity", ["images"], ["picture"])],
        "chw": [helper.make_node("Unsqueeze", ["images", "batch_axis"], ["picture"])],
        "bytes": [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["levels"], ["picture"], perm=[0, 3, 1, 2]),
        ],
    }[layout]
    nodes += [
        helper.make_node("GlobalAveragePool", ["picture"], ["pooled"]),
        helper.make_node("ReduceMean", ["picture"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
    ]
    tensors, infos = [numpy_helper.from_array(np.float32(0), "nothing")], []
    if layout == "chw":
        tensors.append(numpy_helper.from_array(np.array([0]), "batch_axis"))

    def tensor(name, values):
        tensors.append(numpy_helper.from_array(np.asarray(values), name))

    def declare(name, shape, kind=TensorProto.FLOAT):
        infos.append(helper.make_tensor_value_info(name, kind, shape))

    for name, (values, last) in outputs.items():
        values = np.asarray(values, np.float32)
        if last == "Conv":
            tensor(f"{name}_w", np.zeros((values.size, 3, 1, 1), np.float32))
            tensor(f"{name}_b", values.reshape(-1))
            tensor(f"{name}_shape", np.array(values.shape, np.int64))
            nodes.append(helper.make_node("Conv", ["pooled", f"{name}_w", f"{name}_b"], [f"{name}_flat"]))
            nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
        else:
            before = name if last == "Add" and keep_above is None else f"{name}_values"
            tensor(f"{name}_base", values)
            nodes.append(helper.make_node("Add", [f"{name}_base", "zero"], [before]))
            if last != "Add":
                attributes = {"Softmax": {"axis": -1}, "Cast": {"to": TensorProto.INT64}}.get(last, {})
                nodes.append(helper.make_node(last, [before], [name], **attributes))
        if keep_above is None:
            declare(name, values.shape, TensorProto.INT64 if last == "Cast" else TensorProto.FLOAT)
        else:
            for constant, value in (("column", [2]), ("flat", [-1]), ("first", [0])):
                tensor(constant, np.array(value, np.int64))
            tensor("least", np.float32(keep_above))
            nodes += [
                helper.make_node("Gather", [before, "column"], ["scores"], axis=3),
                helper.make_node("Reshape", ["scores", "flat"], ["row_scores"]),
                helper.make_node("Greater", ["row_scores", "least"], ["is_kept"]),
                helper.make_node("NonZero", ["is_kept"], ["kept_rows"]),
                helper.make_node("Squeeze", ["kept_rows", "first"], ["kept"]),
                helper.make_node("Gather", [before, "kept"], [name], axis=2),
            ]
            declare(name, [1, 1, "k", 7])
    for name, values in (constants or {}).items():
        tensor(name, values)
        declare(name, values.shape)
    kind = TensorProto.UINT8 if layout == "bytes" else TensorProto.FLOAT
    shape = {"nchw": [1, 3, size[1], size[0]], "chw": [3, size[1], size[0]], "bytes": [1, size[1], size[0], 3]}[layout]
    images = [helper.make_tensor_value_info("images", kind, shape)]
    images += [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in (inputs or {}).items()]
    images += [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n, shape in (integers or {}).items()]
    graph = helper.make_graph(nodes, "tables", images, infos, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Case:
    """A network, what its outputs mean, and how eyas is called; without a decoder it must be refused for `reason`."""

    def __init__(self, name, outputs, decode=None, *, iou=0.4, conf=0.5, head=None, size=(WIDTH, HEIGHT), reason=None,
                 **network_options):  # fmt: skip
        self.name, self.outputs, self.decode, self.size = name, outputs, decode, size
        self.iou, self.conf, self.head, self.reason, self.network_options = iou, conf, head, reason, network_options

    def arguments(self):
        return ["--conf", self.conf, *(["--head", self.head] if self.head else [])]


def cases(random):
    normal, uniform = random.normal, random.uniform

    # Two anchors a cell.
    cells = {s: (WIDTH // s, HEIGHT // s) for s in (8, 16, 32)}
    rows = {s: 2 * w * h for s, (w, h) in cells.items()}
    scrfd = {f"score_{s}": (normal(-1, 2, (n, 1)), "Sigmoid") for s, n in rows.items()}
    scrfd |= {f"box_{s}": (uniform(0, 3, (n, 4)), "Add") for s, n in rows.items()}
    yield Case("scrfd without landmarks", dict(scrfd), scrfd_faces(cells))
    scrfd |= {f"point_{s}": (normal(0, 1, (n, 10)), "Add") for s, n in rows.items()}
    yield Case("scrfd", scrfd, scrfd_faces(cells))

    priors = prior_grid({8: (16, 32), 16: (64, 128), 32: (256, 512)})
    n = len(priors)
    for last in ("Softmax", "Conv"):
        outputs = {
            "loc": (normal(0, 1, (1, n, 4)), "Conv"),
            "conf": (normal(0, 2, (1, n, 2)), last),
            "landms": (normal(0, 1, (1, n, 10)), "Conv"),
        }
        yield Case(f"retinaface, scores by {last}", outputs, retinaface_faces(priors, last == "Conv"))

    priors = prior_grid({8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)})
    n = len(priors)
    outputs = {
        "loc": (normal(0, 1, (n, 14)), "Conv"),
        "conf": (normal(0, 2, (n, 2)), "Softmax"),
        "iou": (normal(0.5, 0.5, (n, 1)), "Conv"),
    }
    yield Case("yunet_2021", outputs, yunet_2021_faces(priors))

    outputs = {"boxes": (uniform(1, 40, (1, 896, 16)), "Conv"), "scores": (normal(-2, 4, (1, 896, 1)), "Conv")}
    yield Case("blazeface", outputs, blazeface_faces, size=(128, 128))

    n = 500
    priors = np.concatenate([uniform(0, 1, (n, 2)), uniform(0.05, 0.6, (n, 2))], axis=1).astype(np.float32)
    logits = normal(0, 2, (1, n, 8))
    logits[..., 0] += 3
    loc = (normal(0, 1, (1, n, 4)), "Conv")
    for last in ("Softmax", "Conv"):
        decode = ssd_objects(priors.astype(np.float64), last == "Conv")
        outputs = {"loc": loc, "conf": (logits, last)}
        yield Case(f"ssd_raw, scores by {last}", outputs, decode, iou=0.45, conf=0.4, constants={"priors": priors})
    outputs = {"loc": loc, "conf": (logits, "Softmax")}
    yield Case("ssd_raw without priors", outputs, head="ssd_raw", reason="which the file does not hold")
    corners = np.concatenate([uniform(0, 0.45, (1, n, 2)), uniform(0.5, 1, (1, n, 2))], axis=2)
    outputs = {"scores": (logits, "Softmax"), "boxes": (corners, "Add")}
    yield Case("ssd_decoded", outputs, decoded(1, (WIDTH, HEIGHT)), iou=0.45, conf=0.4)

    final = np.zeros((1, 1, 50, 7))
    final[..., 1] = random.integers(1, 21, 50)
    final[..., 2] = np.sort(uniform(0, 1, 50))[::-1]
    final[..., 3:] = np.concatenate([uniform(0, 0.5, (50, 2)), uniform(0.5, 1, (50, 2))], axis=1)
    final[:, :, 30:, 0] = -1
    outputs = {"detection_out": (final, "Add")}
    yield Case("detection_output", outputs, final_rows, iou=1, conf=0.3)
    yield Case("detection_output, late", outputs, final_rows, iou=1, conf=0.3, keep_above=0.2)

    n = sum(w * h for w, h in cells.values())
    corners = np.concatenate([uniform(0, 50, (1, n, 2)), uniform(60, 160, (1, n, 2))], axis=2)
    scores = normal(-4, 2, (1, n, 80))
    outputs = {"boxes": (corners, "Add"), "scores": (scores, "Sigmoid")}
    for head in ("yolo_nas", "damo_yolo", "pp_yoloe"):
        yield Case(head, outputs, decoded(0, (1, 1)), iou=0.7, head=head)
    yield Case("tables without a name", outputs, reason="--head yolo_nas|damo_yolo|pp_yoloe")
    outputs = {"boxes": (corners, "Add"), "scores": (scores.transpose(0, 2, 1), "Sigmoid")}
    inputs = {"scale_factor": [1, 2]}
    yield Case("pp_yoloe by its input, [1, C, N]", outputs, decoded(0, (1, 1)), iou=0.7, inputs=inputs)

    outputs = {"out": (uniform(0, 1, (60 + 15, 95)), "Add")}
    yield Case("yolo_fastest_v2", outputs, fastest_objects, conf=0.3, head="yolo_fastest_v2")
    outputs = {"grid": (normal(0, 1.5, (1, 125, 3, 5)), "Conv")}
    yield Case("tiny_yolo_v2_maps", outputs, region_objects, iou=0.45, conf=0.2, head="tiny_yolo_v2_maps")
    yield Case("maps of YOLOv2 without a name", outputs, reason="tiny_yolo_v2_maps")

    queries = np.concatenate([uniform(0.1, 0.9, (1, 100, 2)), uniform(0, 0.5, (1, 100, 2)), uniform(0, 1, (1, 100, 13))], axis=2)
    yield Case("rt_detr", {"output0": (queries, "Add")}, queries_of("output0", 4, False), iou=1, conf=0.97)
    outputs = {"pred_logits": (normal(0, 3, (1, 100, 6)), "Conv"), "pred_boxes": (queries[..., :4], "Add")}
    yield Case("detr", outputs, queries_of("pred_logits", 0, True), iou=1)

    rows = uniform(0, 1, 30)
    corners = np.concatenate([uniform(0, 50, (30, 2)), uniform(60, 150, (30, 2))], axis=1)
    kinds = random.integers(1, 11, 30)
    outputs = {"labels": (kinds[None], "Cast"), "boxes": (corners[None], "Add"), "scores": (rows[None], "Add")}
    yield Case("detr_lists", outputs, lists("labels", "boxes", "scores"), iou=1, integers={"orig_target_sizes": [1, 2]})
    outputs = {"7": (corners, "Add"), "8": (kinds, "Cast"), "9": (rows, "Add")}
    yield Case("torchvision", outputs, lists("8", "7", "9", first=1), iou=1, layout="chw")
    fractions = corners[:, [1, 0, 3, 2]] / [HEIGHT, WIDTH, HEIGHT, WIDTH]
    outputs = {
        "num_detections": ([30], "Add"),
        "detection_boxes": (fractions[None], "Add"),
        "detection_scores": (rows[None], "Add"),
        "detection_classes": (kinds[None], "Add"),
    }
    decode = lists("detection_classes", "detection_boxes", "detection_scores", first=1, order=[1, 0, 3, 2], unit=(WIDTH, HEIGHT))
    yield Case("tf_detection, bytes", outputs, decode, iou=1, layout="bytes")
    outputs = {"out": (np.concatenate([kinds[:, None], rows[:, None], corners], axis=1), "Add"), "count": ([30], "Cast")}
    yield Case("pp_yoloe_nms", outputs, columns("out", 0, 1, 2), iou=1, inputs={"scale_factor": [1, 2]})
    outputs = {"out": (np.concatenate([0 * rows[:, None], corners, kinds[:, None], rows[:, None]], axis=1), "Add")}
    yield Case("yolo_v7_nms", outputs, columns("out", 5, 6, 1), iou=1)
    outputs = {
        "boxes": (corners[None][..., [1, 0, 3, 2]], "Add"),
        "scores": (uniform(0, 1, (1, 11, 30)), "Add"),
        "indices": (np.stack([0 * kinds, kinds, np.arange(30)], axis=1), "Cast"),
    }
    yield Case("yolo_v3_selected", outputs, selected, iou=1, inputs={"image_shape": [1, 2]})
    for last in ("Conv", "Softmax"):
        outputs = {"output": (normal(0, 1, (1, 20)), last)}
        yield Case(f"classifier, scores by {last}", outputs, best_classes(last == "Conv"), iou=1, conf=0.02)
    outputs = {"output": (normal(0, 1, (1, 20)), "Add")}
    reason = "further input 'sizes'"
    yield Case("an input that nothing is known of", outputs, head="classifier", reason=reason, integers={"sizes": [1, 2]})


# ---------------------------------------------------------------- what the outputs mean: class, score, box, landmarks


def logistic(x):
    return 1 / (1 + math.exp(-x))


def from_centre(cx, cy, w, h):
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def prior_grid(sides):
    """Centre and size around the cells' centres, by stride."""
    return [
        ((i + 0.5) * s, (j + 0.5) * s, side, side)
        for s, all_sides in sides.items()
        for j in range(HEIGHT // s)
        for i in range(WIDTH // s)
        for side in all_sides
    ]


def from_prior(prior, d):
    """With variances 0.1 and 0.2."""
    x, y, w, h = prior
    return from_centre(x + 0.1 * d[0] * w, y + 0.1 * d[1] * h, w * math.exp(0.2 * d[2]), h * math.exp(0.2 * d[3]))


def points_from_prior(prior, d):
    x, y, w, h = prior
    return [(x + 0.1 * a * w, y + 0.1 * b * h) for a, b in d.reshape(-1, 2)]


def scrfd_faces(cells):
    def decode(outputs):
        for s, (cols, _) in cells.items():
            for n, (score,) in enumerate(outputs[f"score_{s}"]):
                x, y = n // 2 % cols * s, n // 2 // cols * s
                left, top, right, bottom = outputs[f"box_{s}"][n] * s
                points = outputs.get(f"point_{s}")
                points = None if points is None else [(x + a * s, y + b * s) for a, b in points[n].reshape(5, 2)]
                yield 0, score, [x - left, y - top, x + right, y + bottom], points

    return decode


def retinaface_faces(priors, raw):
    def decode(outputs):
        for prior, d, (no, yes), k in zip(priors, *(outputs[o][0] for o in ("loc", "conf", "landms")), strict=True):
            yield 0, logistic(yes - no) if raw else yes, from_prior(prior, d), points_from_prior(prior, k)

    return decode


def yunet_2021_faces(priors):
    def decode(outputs):
        for prior, d, (_, face), (overlap,) in zip(priors, *(outputs[o] for o in ("loc", "conf", "iou")), strict=True):
            score = math.sqrt(face * min(max(overlap, 0), 1))
            yield 0, score, from_prior(prior, d[:4]), points_from_prior(prior, d[4:])

    return decode


def blazeface_faces(outputs):
    anchors = [
        ((i + 0.5) * s, (j + 0.5) * s)
        for s, cells, count in ((8, 16, 2), (16, 8, 6))
        for j in range(cells)
        for i in range(cells)
        for _ in range(count)
    ]
    for (x, y), d, (logit,) in zip(anchors, outputs["boxes"][0], outputs["scores"][0], strict=True):
        points = [(x + a, y + b) for a, b in d[4:].reshape(6, 2)]
        yield 0, logistic(min(max(logit, -100), 100)), from_centre(x + d[0], y + d[1], d[2], d[3]), points


def ssd_objects(priors, raw):
    def decode(outputs):
        for prior, d, row in zip(priors, outputs["loc"][0], outputs["conf"][0], strict=True):
            shares = np.exp(row) / np.exp(row).sum() if raw else row
            best = int(shares[1:].argmax())
            yield best, shares[1 + best], np.array(from_prior(prior, d)) * [WIDTH, HEIGHT, WIDTH, HEIGHT], None

    return decode


def decoded(first_class, unit):
    """Corners in that unit; scores [1, N, C] or [1, C, N]."""

    def decode(outputs):
        boxes, scores = outputs["boxes"][0], outputs["scores"][0]
        if len(scores) != len(boxes):
            scores = scores.T
        for box, row in zip(boxes, scores, strict=True):
            best = int(row[first_class:].argmax())
            yield best, row[first_class + best], box * [*unit, *unit], None

    return decode


def final_rows(outputs):
    for picture, kind, score, *box in outputs["detection_out"][0, 0]:
        if picture < 0:
            break
        yield int(kind) - 1, score, np.array(box) * [WIDTH, HEIGHT, WIDTH, HEIGHT], None


def fastest_objects(outputs):
    table = outputs["out"]
    for rows, stride, anchors in ((table[:60], 16, 0), (table[60:], 32, 1)):
        for n, v in enumerate(rows):
            i, j = n % (WIDTH // stride), n // (WIDTH // stride)
            for a, (w, h) in enumerate(YOLO_FASTEST_V2_ANCHORS[anchors]):
                best = int(v[15:].argmax())
                x, y, u, t = v[4 * a : 4 * a + 4]
                box = from_centre((2 * x - 0.5 + i) * stride, (2 * y - 0.5 + j) * stride, 4 * u * u * w, 4 * t * t * h)
                yield best, v[12 + a] * v[15 + best], box, None


def region_objects(outputs):
    for a, (w, h) in enumerate(TINY_YOLO_V2_ANCHORS):
        for j in range(3):
            for i in range(5):
                v = outputs["grid"][0, 25 * a : 25 * a + 25, j, i]
                shares = np.exp(v[5:]) / np.exp(v[5:]).sum()
                best = int(shares.argmax())
                centre = [(i + logistic(v[0])) * 32, (j + logistic(v[1])) * 32]
                box = from_centre(*centre, math.exp(v[2]) * w * 32, math.exp(v[3]) * h * 32)
                yield best, logistic(v[4]) * shares[best], box, None


def queries_of(scores, first_class, logits):
    def decode(outputs):
        boxes = outputs["pred_boxes"] if logits else outputs[scores]
        for box, row in zip(boxes[0], outputs[scores][0], strict=True):
            shares = np.exp(row)[:-1] / np.exp(row).sum() if logits else row[first_class:]
            best = int(shares.argmax())
            cx, cy, w, h = box[:4] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            yield best, shares[best], from_centre(cx, cy, w, h), None

    return decode


def lists(labels, boxes, scores, first=0, order=(0, 1, 2, 3), unit=(1, 1)):
    def decode(outputs):
        of = [outputs[name] for name in (labels, boxes, scores)]
        rows = zip(of[0].reshape(-1), of[1].reshape(-1, 4), of[2].reshape(-1), strict=True)
        for kind, box, score in rows:
            yield int(kind) - first, score, box[list(order)] * [*unit, *unit], None

    return decode


def columns(name, kind, score, box):
    def decode(outputs):
        for row in outputs[name]:
            yield int(row[kind]), row[score], row[box : box + 4], None

    return decode


def selected(outputs):
    for _, kind, n in outputs["indices"].astype(int):
        yield kind, outputs["scores"][0, kind, n], outputs["boxes"][0, n, [1, 0, 3, 2]], None


def best_classes(logits):
    def decode(outputs):
        row = outputs["output"][0]
        shares = np.exp(row) / np.exp(row).sum() if logits else row
        for best in np.argsort(-shares)[:5]:
            yield int(best), shares[best], [0, 0, WIDTH, HEIGHT], None

    return decode


# ---------------------------------------------------------------- comparison


def overlap(a, b):
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0


def suppress(found, threshold):
    """Greedy, best first, within classes."""
    kept = []
    for one in sorted(found, key=lambda d: -d[1]):
        if all(k[0] != one[0] or overlap(k[2], one[2]) <= threshold for k in kept):
            kept.append(one)
    return kept[:300]


def reference(case, path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
    values = {i.name: np.zeros(i.shape, kinds[i.type]) for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    outputs = {n: v.astype(np.float64) for n, v in zip(names, session.run(names, values), strict=True)}
    return suppress([d for d in case.decode(outputs) if d[1] >= case.conf], case.iou)


def differences(case, found, expected):
    if len(found) != len(expected):
        return [f"{len(found)} detections, expected {len(expected)}"]
    wrong = []
    for n, (f, (kind, score, box, points)) in enumerate(zip(found, expected, strict=True)):
        if f["class"] != kind or ("landmarks" in f) != (points is not None):
            wrong.append(f"{n}: {f}, expected class {kind}, landmarks {points}")
            continue
        pairs = [("score", score, SCORE_TOLERANCE), ("box", np.clip(box, 0, [*case.size, *case.size]), BOX_TOLERANCE_PX)]
        if points is not None:
            pairs.append(("landmarks", np.clip(points, 0, case.size), BOX_TOLERANCE_PX))
        for field, want, tolerance in pairs:
            off = np.abs(np.asarray(f[field], float) - want).max()
            if not off <= tolerance:
                wrong.append(f"{n}: {field} off by {off:.4g}")
    return wrong


def check(case, eyas, backend, model, photo, expected):
    """What is wrong."""
    command = ["detect", "-m", model, "--backend", backend, *case.arguments(), "--json", photo]
    try:
        found = program.call_json(eyas, *command)[0]["detections"]
    except program.Failed as error:
        refused = case.reason is not None and "exit code" in str(error) and case.reason in str(error)
        return [] if refused else [str(error)]
    if case.reason is not None:
        return [f"{len(found)} detections, where it should have been refused"]
    return differences(case, found, expected) if expected else ["the reference finds nothing"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--backends", nargs="+", default=["cpu", "gpu"], choices=["cpu", "gpu"])
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these")
    options = parser.parse_args()
    failed = passed = 0
    with tempfile.TemporaryDirectory() as folder:
        photo, model = Path(folder) / "photo.png", Path(folder) / "tables.onnx"
        for case in cases(np.random.default_rng(3)):
            if options.only and not any(part in case.name for part in options.only):
                continue
            cv2.imwrite(str(photo), np.zeros((case.size[1], case.size[0], 3), np.uint8))
            network(model, case.outputs, case.size, **case.network_options)
            expected = None if case.decode is None else reference(case, model)
            for backend in options.backends:
                wrong = check(case, options.eyas, backend, model, photo, expected)
                passed, failed = passed + (not wrong), failed + bool(wrong)
                what = "refused" if expected is None else f"{len(expected)} detections"
                print(f"{'MISS' if wrong else 'ok  '} {case.name} {backend}: {what}")
                for line in wrong[:5]:
                    print(f"       {line}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
