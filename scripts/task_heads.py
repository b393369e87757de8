#!/usr/bin/env python3
"""Runs `eyas detect --json` on small networks for other tasks than boxes, and compares with ONNX Runtime and numpy.

    python scripts/task_heads.py
    python scripts/task_heads.py --eyas target/debug/eyas --backends cpu --only pose

No trained weights are needed: each network is written here, with the outputs' names, shapes and metadata of the exporter
it stands for, and with random numbers as outputs that depend a little on the picture. What they mean is computed in
64-bit floats from the outputs of ONNX Runtime, apart from eyas: segmentation, poses, turned boxes, end-to-end rows, faces
with landmarks, raw maps, YOLOv4's tables, semantic maps. Compared are number, class, score, box, landmarks, visibility, corners, angle and
every pixel of the masks. Exit code 1 on a difference.

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

WIDTH, HEIGHT = 160, 96
PICTURE = (213, 131)
CONF = 0.25
# Networks that take the picture stretched.
STRETCHED = {"yolov3 maps", "yolov4 maps", "yolov4 tables"}
BOX_TOLERANCE_PX = 0.02
SCORE_TOLERANCE = 1e-4
# Share of a mask's pixels that may differ: those where the value is within rounding of the threshold.
MASK_TOLERANCE = 0.002


# ---------------------------------------------------------------- networks


def network(path, outputs, metadata):
    """Writes a network whose outputs are these arrays plus a small part that depends on the picture."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    constants, infos = [], []
    for name, values in outputs.items():
        values = np.asarray(values, np.float32)
        constants += [
            numpy_helper.from_array(values, f"{name}_base"),
            numpy_helper.from_array(np.float32(1e-3) * (values != 0), f"{name}_share"),
        ]
        # Classes are whole numbers, and padding stays zero.
        nodes.append(helper.make_node("Mul", ["mean", f"{name}_share"], [f"{name}_part"]))
        nodes.append(helper.make_node("Add", [f"{name}_base", f"{name}_part"], [name]))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "task", [images], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def props(task, classes, **more):
    """What the ultralytics exporter writes."""
    names = {k: f"kind {k}" for k in range(classes)}
    return {
        "description": "no trained network", "stride": "32", "task": task, "batch": "1", "channels": "3",
        "imgsz": str([HEIGHT, WIDTH]), "names": str(names), **{k: str(v) for k, v in more.items()},
    }  # fmt: skip


ANCHORS = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]]
LARGER_ANCHORS = [[(12, 16), (19, 36), (40, 28)], [(36, 75), (76, 55), (72, 146)], [(142, 110), (192, 243), (459, 401)]]
CELLS = [(WIDTH // s, HEIGHT // s) for s in (8, 16, 32)]
N8 = sum(w * h for w, h in CELLS)


def centre_boxes(random, n):
    return np.stack(
        [random.uniform(0, WIDTH, n), random.uniform(0, HEIGHT, n), random.uniform(6, 70, n), random.uniform(6, 50, n)]
    )


def corner_boxes(random, n):
    cx, cy, w, h = centre_boxes(random, n)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def class_scores(random, classes, n):
    """Mostly low."""
    return random.uniform(0, 1, (classes, n)) ** 8


def keypoints(random, count, numbers, n):
    points = [random.uniform(0, WIDTH, (count, n)), random.uniform(0, HEIGHT, (count, n))]
    points += [random.uniform(0, 1, (count, n))] * (numbers - 2)
    return np.stack(points, axis=1).reshape(count * numbers, n)


def prototypes(random, count):
    """Smooth maps, so that masks have shapes."""
    coarse = random.normal(size=(count, 6, 8)).astype(np.float32)
    maps = [cv2.resize(m, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_CUBIC) for m in coarse]
    return np.stack(maps)[None]


def final_rows(random, classes, rows, further):
    """Sorted by score, with padding at the end."""
    scores = np.sort(random.uniform(0.05, 1, rows))[::-1]
    table = np.concatenate(
        [corner_boxes(random, rows), scores[None], random.integers(0, classes, rows)[None].astype(float), further]
    )
    table[:, rows - 7 :] = 0
    return table.T[None]


def cases(random):
    """Name, outputs, metadata, reference decoder, arguments for eyas."""
    boxes, scores = centre_boxes(random, N8), class_scores(random, 5, N8)
    masks = random.normal(size=(32, N8))
    table = np.concatenate([boxes, scores, masks])[None]
    yield "seg", {"output0": table, "output1": prototypes(random, 32)}, props("segment", 5), v8("seg", 5), []

    points = keypoints(random, 17, 3, N8)
    table = np.concatenate([boxes, scores[:1], points])[None]
    yield "pose", {"output0": table}, props("pose", 1, kpt_shape=[17, 3]), v8("pose", 1, (17, 3)), []
    table = np.concatenate([boxes, scores[:2], keypoints(random, 5, 2, N8)])[None]
    yield "pose 5x2", {"output0": table}, props("pose", 2, kpt_shape=[5, 2]), v8("pose", 2, (5, 2)), []

    angle = random.uniform(-math.pi / 4, 3 * math.pi / 4, (1, N8))
    table = np.concatenate([boxes, scores, angle])[None]
    yield "obb", {"output0": table}, props("obb", 5), v8("obb", 5), []

    end2end = {"end2end": True}
    nms = {"args": {"nms": True, "half": False}}
    rows = 60
    none = np.zeros((0, rows))
    yield "end2end", {"output0": final_rows(random, 7, rows, none)}, props("detect", 7, **end2end), final("detect"), []
    yield "nms=True", {"output0": final_rows(random, 7, rows, none)}, props("detect", 7, **nms), final("detect"), []
    table = final_rows(random, 3, rows, random.normal(size=(32, rows)))
    outputs = {"output0": table, "output1": prototypes(random, 32)}
    yield "end2end seg", outputs, props("segment", 3, **end2end), final("seg"), []
    table = final_rows(random, 1, rows, keypoints(random, 17, 3, rows))
    yield "end2end pose", {"output0": table}, props("pose", 1, kpt_shape=[17, 3], **end2end), final("pose", (17, 3)), []
    table = final_rows(random, 4, rows, random.uniform(-0.7, 2.3, (1, rows)))
    table[0, :, :4] = np.where(table[0, :, 4:5] > 0, centre_boxes(random, rows).T, 0)
    yield "end2end obb", {"output0": table}, props("obb", 4, **end2end), final("obb"), []

    n = 3 * N8
    objectness, class_one = random.uniform(0, 1, (1, n)) ** 6, random.uniform(0.5, 1, (1, n))
    table = np.concatenate([centre_boxes(random, n), objectness, keypoints(random, 5, 2, n), class_one]).T[None]
    yield "yolov5-face", {"output": table}, {"names": "['face']"}, v5("face"), []
    table = np.concatenate([centre_boxes(random, n), objectness, class_scores(random, 4, n) ** 0.2,
                            random.normal(size=(32, n))]).T[None]  # fmt: skip
    outputs = {"output0": table, "output1": prototypes(random, 32)}
    yield "yolov5-seg", outputs, {"stride": "32", "names": props("", 4)["names"]}, v5("seg", 4), []

    maps = {f"p{s}": random.normal(size=(1, 3, h, w, 9)) * 1.5 for s, (w, h) in zip((3, 4, 5), CELLS, strict=True)}
    for values in maps.values():
        values[..., 4] -= 2.5
    yield "yolov5 maps", maps, {"stride": "32", "names": props("", 4)["names"]}, raw_maps(ANCHORS, (2, 2, 2), True, 0.45), ["--head", "yolo_v5_maps"]
    flat = {k: m.transpose(0, 1, 4, 2, 3).reshape(1, 27, m.shape[2], m.shape[3]) for k, m in maps.items()}
    yield "yolov5 maps 27", flat, {}, raw_maps(ANCHORS, (2, 2, 2), True, 0.45), ["--head", "yolo_v5_maps"]

    yield "yolov7 maps", maps, {}, raw_maps(LARGER_ANCHORS, (2, 2, 2), True, 0.65), ["--head", "yolo_v7_maps"]
    yield "yolov3 maps", flat, {}, raw_maps(ANCHORS, (1, 1, 1), False, 0.45), ["--head", "yolo_v3_maps"]
    yield "yolov4 maps", flat, {}, raw_maps(LARGER_ANCHORS, (1.2, 1.1, 1.05), False, 0.45), ["--head", "yolo_v4_maps"]
    fractions = corner_boxes(random, n).T / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    outputs = {"boxes": fractions[None, :, None], "confs": class_scores(random, 4, n).T[None]}
    yield "yolov4 tables", outputs, {}, yolo_v4, []

    logits = np.stack([cv2.resize(m, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
                       for m in random.normal(size=(6, 6, 8)).astype(np.float32) * 3])[None]  # fmt: skip
    yield "semantic", {"output0": logits}, props("semantic", 6), semantic, []


# ---------------------------------------------------------------- what the outputs mean


# How the picture lies in the input: "centre" or "stretch".
fit = "centre"


def letterbox():
    """Scale and offset (both x, y) of the picture in the input."""
    if fit == "stretch":
        return np.array([WIDTH / PICTURE[0], HEIGHT / PICTURE[1]]), np.zeros(2, int)
    scale = min(WIDTH / PICTURE[0], HEIGHT / PICTURE[1])
    size = [math.floor(v * scale + 0.5) for v in PICTURE]
    return np.array([scale, scale]), np.array([(WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2])


def network_input(picture):
    """The picture (BGR) in the network's input: RGB, divided by 255."""
    scale, offset = letterbox()
    size = [math.floor(v * s + 0.5) for v, s in zip(PICTURE, scale, strict=True)]
    canvas = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
    canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = cv2.resize(picture, size)
    return (canvas[:, :, ::-1].astype(np.float32) / 255).transpose(2, 0, 1)[None]


def to_picture(points, clip=True):
    scale, offset = letterbox()
    points = (np.asarray(points, np.float64).reshape(-1, 2) - offset) / scale
    return np.clip(points, 0, PICTURE) if clip else points


def box_to_picture(box):
    return to_picture(box).reshape(4)


def from_centre(cx, cy, w, h):
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def iou(a, b):
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0


def gaussian(turned):
    """Mean and covariance of a uniform distribution over a turned box."""
    cx, cy, w, h, angle = turned
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.array([cx, cy]), turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T


def probabilistic_iou(a, b):
    """1 - Hellinger distance, from the Bhattacharyya distance of two normal distributions in its general form."""
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(a), gaussian(b)
    both = (cov_a + cov_b) / 2
    d = mean_a - mean_b
    distance = d @ np.linalg.solve(both, d) / 8
    distance += 0.5 * math.log(np.linalg.det(both) / math.sqrt(np.linalg.det(cov_a) * np.linalg.det(cov_b)))
    return 1 - math.sqrt(max(1 - math.exp(-distance), 0))


def suppress(found, threshold):
    """Greedy, best first, within classes; by turned boxes where there are some."""
    kept = []
    for one in sorted(found, key=lambda d: -d["score"]):
        rivals = [k for k in kept if k["class"] == one["class"]]
        if "turned" in one:
            if all(probabilistic_iou(k["turned"], one["turned"]) <= threshold for k in rivals):
                kept.append(one)
        elif all(iou(k["model"], one["model"]) <= threshold for k in rivals):
            kept.append(one)
    return kept[:300]


def corners(turned):
    cx, cy, w, h, angle = turned
    along = np.array([math.cos(angle), math.sin(angle)])
    down = np.array([-math.sin(angle), math.cos(angle)])
    return [np.array([cx, cy]) + x * w * along + y * h * down for x, y in ((-.5, -.5), (.5, -.5), (.5, .5), (-.5, .5))]


def pixel_mask(value_at, box):
    """Pixels of the picture whose centres lie in the box and have a value above 0."""
    scale, offset = letterbox()
    y, x = np.mgrid[0 : PICTURE[1], 0 : PICTURE[0]] + 0.5
    inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    return inside & (value_at(x * scale[0] + offset[0], y * scale[1] + offset[1]) > 0)


def bilinear(grid, x, y):
    """Between the centres of cells that cover the network's input; the outermost go on."""
    rows, cols = grid.shape
    u = np.clip(x / WIDTH * cols - 0.5, 0, cols - 1)
    v = np.clip(y / HEIGHT * rows - 0.5, 0, rows - 1)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    i1, j1 = np.minimum(i + 1, cols - 1), np.minimum(j + 1, rows - 1)
    a, b = u - i, v - j
    return (grid[j, i] * (1 - a) + grid[j, i1] * a) * (1 - b) + (grid[j1, i] * (1 - a) + grid[j1, i1] * a) * b


def describe(one, further, kind, outputs, shape):
    """Adds what the columns after box and classes say, and the box in the picture."""
    if kind == "obb":
        points = np.array(corners(one["turned"]))
        one["model"] = np.concatenate([points.min(0), points.max(0)])
        one["corners"] = to_picture(points, clip=False)
        one["angle"] = math.atan2(*(one["corners"][1] - one["corners"][0])[::-1])
    one["box"] = box_to_picture(one["model"])
    if kind == "pose":
        points = further.reshape(shape)
        one["landmarks"] = to_picture(points[:, :2])
        if shape[1] == 3:
            one["visibility"] = points[:, 2]
    if kind == "seg":
        grid = np.tensordot(further, outputs["output1"][0].astype(np.float64), 1)
        one["mask"] = pixel_mask(lambda x, y: bilinear(grid, x, y), one["box"])
    return one


def rows_decoder(rows, classes, first, kind, iou_threshold, outputs, shape, objectness=False, further_first=None):
    found = []
    further_first = first + classes if further_first is None else further_first
    for row in rows:
        scores = row[first : first + classes] * (row[4] if objectness else 1)
        best = int(scores.argmax())
        if scores[best] < CONF:
            continue
        one = {"class": best, "score": scores[best], "model": from_centre(*row[:4]), "row": row}
        if kind == "obb":
            one["turned"] = (*row[:4], row[-1])
        found.append(one)
    end = None if further_first >= first else first
    return [describe(d, d["row"][further_first:end], kind, outputs, shape) for d in suppress(found, iou_threshold)]


def v8(kind, classes, shape=None):
    return lambda o: rows_decoder(o["output0"][0].astype(np.float64).T, classes, 4, kind, 0.7, o, shape)


def v5(kind, classes=1):
    def decode(o):
        rows = next(iter(o.values()))[0].astype(np.float64)
        if kind == "face":
            return rows_decoder(rows, 1, 15, "pose", 0.45, o, (5, 2), True, 5)
        return rows_decoder(rows, classes, 5, kind, 0.45, o, None, True)

    return decode


def final(kind, shape=None):
    def decode(outputs):
        found = []
        for row in outputs["output0"][0].astype(np.float64):
            if row[4] < CONF:
                continue
            one = {"class": int(round(row[5])), "score": row[4], "model": row[:4]}
            if kind == "obb":
                one["turned"] = (*row[:4], row[6])
            found.append(describe(one, row[6:], kind, outputs, shape))
        return sorted(found, key=lambda d: -d["score"])

    return decode


def raw_maps(anchors, alphas, square, iou_threshold):
    def decode(outputs):
        rows = []
        for values, stride, sizes, alpha in zip(outputs.values(), (8, 16, 32), anchors, alphas, strict=True):
            raw = values.astype(np.float64)
            if raw.ndim == 4:
                raw = raw.reshape(1, 3, 9, *raw.shape[2:]).transpose(0, 1, 3, 4, 2)
            p = 1 / (1 + np.exp(-raw))
            for a, size in enumerate(sizes):
                for (j, i), _ in np.ndenumerate(p[0, a, :, :, 0]):
                    q = p[0, a, j, i]
                    centre = (q[:2] * alpha - (alpha - 1) / 2 + (i, j)) * stride
                    sides = (4 * q[2:4] ** 2 if square else np.exp(raw[0, a, j, i, 2:4])) * size
                    rows.append(np.concatenate([centre, sides, q[4:]]))
        return rows_decoder(rows, 4, 5, "detect", iou_threshold, outputs, None, True)

    return decode


def yolo_v4(outputs):
    found = []
    boxes = outputs["boxes"][0, :, 0].astype(np.float64) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    for box, scores in zip(boxes, outputs["confs"][0].astype(np.float64), strict=True):
        best = int(scores.argmax())
        if scores[best] >= CONF:
            found.append({"class": best, "score": scores[best], "model": box})
    return [describe(d, None, "detect", outputs, None) for d in suppress(found, 0.6)]


def semantic(outputs):
    values = outputs["output0"][0].astype(np.float64)
    shares = np.exp(values - values.max(0))
    shares /= shares.sum(0)
    kind = values.argmax(0)
    found = []
    for k in np.unique(kind):
        j, i = np.nonzero(kind == k)
        score = shares[k][kind == k].mean()
        if score >= CONF:
            box = box_to_picture([i.min(), j.min(), i.max() + 1, j.max() + 1])
            at = lambda x, y: (kind[y.astype(int).clip(0, HEIGHT - 1), x.astype(int).clip(0, WIDTH - 1)] == k) * 1.0  # noqa: B023, E731
            found.append({"class": int(k), "score": score, "box": box, "mask": pixel_mask(at, box)})
    return sorted(found, key=lambda d: -d["score"])


# ---------------------------------------------------------------- comparison


def mask_of(found):
    left, top, right, bottom = found["box"]
    runs = found["runs"]
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros(PICTURE[::-1], bool)
    mask[top:bottom, left:right] = inside.reshape(bottom - top, right - left)
    return mask


def differences(found, expected):
    if len(found) != len(expected):
        return [f"{len(found)} detections, expected {len(expected)}"]
    wrong = []
    fields = {"class", "label", "score", "box", "landmarks", "visibility", "corners", "angle", "mask"}
    for n, (f, e) in enumerate(zip(found, expected, strict=True)):
        if f["class"] != e["class"]:
            wrong.append(f"{n}: class {f['class']}, expected {e['class']}")
            continue
        if (set(f) - {"label"}) != (set(e) & fields):
            wrong.append(f"{n}: fields {sorted(f)}, expected {sorted(set(e) & fields)}")
            continue
        tolerances = {
            "score": SCORE_TOLERANCE, "visibility": SCORE_TOLERANCE, "angle": SCORE_TOLERANCE,
            "box": BOX_TOLERANCE_PX, "landmarks": BOX_TOLERANCE_PX, "corners": BOX_TOLERANCE_PX,
        }  # fmt: skip
        for field, tolerance in tolerances.items():
            if field in e:
                off = np.abs(np.asarray(f[field], float) - np.asarray(e[field], float)).max()
                if not off <= tolerance:
                    wrong.append(f"{n}: {field} off by {off:.4g}")
        if "mask" in e:
            off = int((mask_of(f["mask"]) != e["mask"]).sum())
            if off > MASK_TOLERANCE * max(e["mask"].sum(), 500):
                wrong.append(f"{n}: {off} of {e['mask'].sum()} mask pixels differ")
    return wrong


def main():
    global fit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--backends", nargs="+", default=["cpu", "gpu"], choices=["cpu", "gpu"])
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (PICTURE[1], PICTURE[0], 3), np.uint8)
    failed = passed = 0
    with tempfile.TemporaryDirectory() as folder:
        photo, model = Path(folder) / "photo.png", Path(folder) / "task.onnx"
        cv2.imwrite(str(photo), picture)
        for name, outputs, metadata, decode, arguments in cases(random):
            if options.only and not any(part in name for part in options.only):
                continue
            network(model, outputs, metadata)
            session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
            fit = "stretch" if name in STRETCHED else "centre"
            values = session.run(list(outputs), {"images": network_input(picture)})
            expected = decode(dict(zip(outputs, values, strict=True)))
            for backend in options.backends:
                try:
                    lines = program.call_json(options.eyas, "detect", "-m", model, "--backend", backend, "--conf", CONF,
                                              *arguments, "--json", photo)  # fmt: skip
                    wrong = differences(lines[0]["detections"], expected)
                    if not expected:
                        wrong.append("the reference finds nothing")
                except program.Failed as error:
                    wrong = [str(error)]
                passed, failed = passed + (not wrong), failed + bool(wrong)
                print(f"{'MISS' if wrong else 'ok  '} {name} {backend}: {len(expected)} detections")
                for line in wrong[:5]:
                    print(f"       {line}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
