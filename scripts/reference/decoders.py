#!/usr/bin/env python3
"""Reference decoders: what each supported detection head means, in numpy.

Runs a network with ONNX Runtime (or a Darknet network with OpenCV's dnn module) on pictures and prints the boxes it
finds. Written independently of the Rust code and in 64-bit floats, so that both can be compared. Needs numpy, opencv
and onnxruntime.

    decoders.py MODEL.onnx|MODEL.cfg PICTURE... [--head NAME] [--conf X] [--iou X] [--names FILE] [--multi-label]

prints one JSON object per picture: {"image": ..., "head": ..., "detections": [{"class", "label", "score", "box"}]}.
Boxes are left, top, right, bottom in pixels of the original picture, best score first.
"""

import argparse
import dataclasses
import json
import os
import re

import cv2
import numpy as np


# ---------------------------------------------------------------- pre-processing


@dataclasses.dataclass(frozen=True)
class Preprocess:
    fit: str  # "stretch", "top_left" or "centre"
    order: str  # "rgb" or "bgr"
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    pad: int = 114


@dataclasses.dataclass(frozen=True)
class Mapping:
    """model = picture * scale + offset, per axis (x, y)."""

    scale: tuple
    offset: tuple
    picture: tuple

    def to_picture(self, boxes):
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        s = np.array([*self.scale, *self.scale])
        o = np.array([*self.offset, *self.offset])
        limit = np.array([*self.picture, *self.picture], np.float64)
        return np.clip((boxes - o) / s, 0.0, limit)


def prepare(picture_bgr, width, height, how):
    """The network's input [1, 3, height, width] (f32) and the mapping back to the picture."""
    h, w = picture_bgr.shape[:2]
    if how.fit == "stretch":
        canvas = cv2.resize(picture_bgr, (width, height), interpolation=cv2.INTER_LINEAR)
        mapping = Mapping((width / w, height / h), (0.0, 0.0), (w, h))
    else:
        r = min(width / w, height / h)
        cw, ch = max(1, int(w * r)), max(1, int(h * r))
        canvas = np.full((height, width, 3), how.pad, np.uint8)
        x, y = ((width - cw) // 2, (height - ch) // 2) if how.fit == "centre" else (0, 0)
        canvas[y : y + ch, x : x + cw] = cv2.resize(picture_bgr, (cw, ch), interpolation=cv2.INTER_LINEAR)
        mapping = Mapping((r, r), (float(x), float(y)), (w, h))
    if how.order == "rgb":
        canvas = canvas[:, :, ::-1]
    levels = (canvas.astype(np.float32) - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    return np.ascontiguousarray(levels.transpose(2, 0, 1)[None]), mapping


# ---------------------------------------------------------------- arithmetic


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0)))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def grid(width, height, stride):
    """Columns and rows of the cells of one scale, row by row."""
    cols, rows = -(-width // stride), -(-height // stride)
    j, i = np.mgrid[0:rows, 0:cols]
    return i.reshape(-1).astype(np.float64), j.reshape(-1).astype(np.float64)


def from_centre(cx, cy, w, h):
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)


def iou(a, b):
    """Intersection over union of one box with many."""
    x0, y0 = np.maximum(a[0], b[:, 0]), np.maximum(a[1], b[:, 1])
    x1, y1 = np.minimum(a[2], b[:, 2]), np.minimum(a[3], b[:, 3])
    inter = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) - inter
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0)


def nms(boxes, scores, classes, threshold, limit=300):
    """Greedy suppression within each class; indices, best score first."""
    order = np.lexsort((np.arange(len(scores)), classes, -scores))
    kept = []
    alive = np.ones(len(scores), bool)
    for at, k in enumerate(order):
        if not alive[k]:
            continue
        kept.append(k)
        if len(kept) == limit:
            break
        rest = order[at + 1 :]
        rest = rest[(classes[rest] == classes[k]) & alive[rest]]
        alive[rest[iou(boxes[k], boxes[rest]) > threshold]] = False
    return kept


# ---------------------------------------------------------------- heads
# Each takes the outputs (name -> array) in the file's order, and the input's width and height, and returns
# boxes [n, 4] (left, top, right, bottom in input pixels), scores [n, classes] and landmarks [n, k, 2] or None.


def yolox(outputs, width, height):
    """Raw offsets [1, n, 5+C], strides 8, 16, 32; objectness and classes are probabilities already."""
    rows = next(iter(outputs.values()))[0].astype(np.float64)
    boxes, at = [], 0
    for stride in (8, 16, 32):
        i, j = grid(width, height, stride)
        r = rows[at : at + len(i)]
        at += len(i)
        size = np.exp(r[:, 2:4]) * stride
        boxes.append(from_centre((r[:, 0] + i) * stride, (r[:, 1] + j) * stride, size[:, 0], size[:, 1]))
    assert at == len(rows), "not a YOLOX grid"
    return np.concatenate(boxes), rows[:, 4:5] * rows[:, 5:], None


def yolo_v8(outputs, _width, _height):
    """Decoded columns [1, 4+C, n]: centre and size in input pixels, class probabilities."""
    rows = next(iter(outputs.values()))[0].astype(np.float64).T
    return from_centre(*rows[:, :4].T), rows[:, 4:], None


def yolo_v5(outputs, _width, _height):
    """Decoded rows [1, n, 5+C]: centre and size in input pixels, objectness, class probabilities."""
    rows = next(iter(outputs.values()))[0].astype(np.float64)
    return from_centre(*rows[:, :4].T), rows[:, 4:5] * rows[:, 5:], None


def gfl(outputs, width, height, strides, offset=0.5):
    """Class probabilities [1, n, C] and box distributions [1, n, 4(r+1)] per stride."""
    values = [v[0].astype(np.float64) for v in outputs.values()]
    half = len(values) // 2
    boxes, scores = [], []
    for stride, cls, dist in zip(strides, values[:half], values[half:], strict=True):
        i, j = grid(width, height, stride)
        assert len(i) == len(cls) == len(dist), "not a GFL grid"
        bins = dist.shape[1] // 4
        d = (softmax(dist.reshape(-1, 4, bins)) * np.arange(bins)).sum(-1) * stride
        cx, cy = (i + offset) * stride, (j + offset) * stride
        boxes.append(np.stack([cx - d[:, 0], cy - d[:, 1], cx + d[:, 2], cy + d[:, 3]], axis=-1))
        scores.append(cls)
    return np.concatenate(boxes), np.concatenate(scores), None


def nanodet(outputs, width, height):
    return gfl(outputs, width, height, (8, 16, 32))


def picodet(outputs, width, height):
    return gfl(outputs, width, height, (8, 16, 32, 64))


def fastestdet(outputs, width, height):
    """One map [1, 5+C, h, w]: objectness, four raw box numbers, softmaxed classes."""
    m = next(iter(outputs.values()))[0].astype(np.float64)
    _, rows, cols = m.shape
    j, i = np.mgrid[0:rows, 0:cols]
    cx, cy = (i + np.tanh(m[1])) / cols * width, (j + np.tanh(m[2])) / rows * height
    w, h = sigmoid(m[3]) * width, sigmoid(m[4]) * height
    scores = m[0][None] ** 0.6 * m[5:] ** 0.4
    return from_centre(cx, cy, w, h).reshape(-1, 4), scores.reshape(len(scores), -1).T, None


def yunet(outputs, width, height):
    """cls_s, obj_s, bbox_s, kps_s for strides 8, 16, 32."""
    boxes, scores, marks = [], [], []
    for stride in (8, 16, 32):
        i, j = grid(width, height, stride)
        cls, obj, box, kps = (outputs[f"{k}_{stride}"][0].astype(np.float64) for k in ("cls", "obj", "bbox", "kps"))
        scores.append(np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1)))
        size = np.exp(box[:, 2:]) * stride
        boxes.append(from_centre((i + box[:, 0]) * stride, (j + box[:, 1]) * stride, size[:, 0], size[:, 1]))
        marks.append((kps.reshape(-1, 5, 2) + np.stack([i, j], -1)[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(marks)


def ultraface(outputs, width, height):
    """scores [1, n, 2] (background, face) and decoded corners [1, n, 4] in 0..1."""
    boxes = outputs["boxes"][0].astype(np.float64) * np.array([width, height, width, height])
    return boxes, outputs["scores"][0].astype(np.float64)[:, 1:], None


def ultraface_raw(outputs, width, height):
    """As ultraface, for files whose boxes come straight from convolutions: SSD priors, variances 0.1 and 0.2."""
    loc = outputs["boxes"][0].astype(np.float64)
    priors = []
    for stride, sizes in ((8, (10, 16, 24)), (16, (32, 48)), (32, (64, 96)), (64, (128, 192, 256))):
        i, j = grid(width, height, stride)
        for n in range(len(i)):
            for size in sizes:
                priors.append([(i[n] + 0.5) * stride / width, (j[n] + 0.5) * stride / height, size / width, size / height])
    p = np.clip(np.array(priors), 0, 1)
    c = p[:, :2] + loc[:, :2] * 0.1 * p[:, 2:]
    s = p[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    boxes = from_centre(c[:, 0], c[:, 1], s[:, 0], s[:, 1]) * np.array([width, height, width, height])
    return boxes, outputs["scores"][0].astype(np.float64)[:, 1:], None


def darknet_yolo(raw_maps, heads, width, height):
    """Raw maps [anchors*(5+C), h, w] of the [yolo] sections, each with its anchors in input pixels."""
    boxes, scores = [], []
    for m, head in zip(raw_maps, heads, strict=True):
        classes, alpha = head["classes"], head["scale_x_y"]
        _, rows, cols = m.shape
        j, i = np.mgrid[0:rows, 0:cols]
        for a, (aw, ah) in enumerate(head["anchors"]):
            e = m[a * (5 + classes) : (a + 1) * (5 + classes)].astype(np.float64)
            if head["new_coords"]:
                x, y, obj, cls = e[0], e[1], e[4], e[5:]
                w, h = (2 * e[2]) ** 2 * aw, (2 * e[3]) ** 2 * ah
            else:
                x, y, obj, cls = sigmoid(e[0]), sigmoid(e[1]), sigmoid(e[4]), sigmoid(e[5:])
                w, h = np.exp(e[2]) * aw, np.exp(e[3]) * ah
            cx = (i + x * alpha - (alpha - 1) / 2) / cols * width
            cy = (j + y * alpha - (alpha - 1) / 2) / rows * height
            boxes.append(from_centre(cx, cy, w, h).reshape(-1, 4))
            scores.append((obj[None] * cls).reshape(classes, -1).T)
    return np.concatenate(boxes), np.concatenate(scores), None


@dataclasses.dataclass(frozen=True)
class Head:
    decode: object
    preprocess: Preprocess
    conf: float
    iou: float = 0.45


IMAGENET_BGR = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
IMAGENET_RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
FACES = Preprocess("stretch", "rgb", (127.0,) * 3, (128.0,) * 3)
HEADS = {
    "yolox": Head(yolox, Preprocess("top_left", "bgr"), 0.35),
    "nanodet": Head(nanodet, Preprocess("stretch", "bgr", *IMAGENET_BGR), 0.35),
    "picodet": Head(picodet, Preprocess("stretch", "rgb", *IMAGENET_RGB), 0.35),
    "fastestdet": Head(fastestdet, Preprocess("stretch", "bgr", std=(255.0,) * 3), 0.5),
    "yunet": Head(yunet, Preprocess("stretch", "bgr"), 0.6),
    "ultraface": Head(ultraface, FACES, 0.7, 0.5),
    "ultraface_raw": Head(ultraface_raw, FACES, 0.7, 0.5),
    "yolo_v8": Head(yolo_v8, Preprocess("centre", "rgb", std=(255.0,) * 3), 0.25, 0.7),
    "yolo_v5": Head(yolo_v5, Preprocess("centre", "rgb", std=(255.0,) * 3), 0.25, 0.45),
    "darknet": Head(None, Preprocess("stretch", "rgb", std=(255.0,) * 3), 0.35),
}


def guess_head(shapes):
    """A head's name from the output shapes of an ONNX file; enough for the networks named above."""
    names = list(shapes)
    if any(n.startswith("cls_pred_stride") for n in names):
        return "nanodet"
    if "bbox_8" in names:
        return "yunet"
    if "boxes" in names and "scores" in names:
        return "ultraface"
    if len(names) == 8:
        return "picodet"
    if len(names) == 1 and len(shapes[names[0]]) == 4:
        return "fastestdet"
    if len(names) == 1 and len(shapes[names[0]]) == 3:
        return "yolox" if shapes[names[0]][1] > shapes[names[0]][2] else "yolo_v8"
    raise SystemExit(f"no head fits the outputs {shapes}: give --head {'|'.join(HEADS)}")


# ---------------------------------------------------------------- networks


class OnnxNetwork:
    def __init__(self, path, head=None, size=None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.half = "float16" in self.input.type
        shape = self.input.shape
        self.height, self.width = size[::-1] if size else (shape[2], shape[3])
        self.head_name = head or guess_head({o.name: o.shape for o in self.session.get_outputs()})
        self.head = HEADS[self.head_name]

    def __call__(self, batch):
        batch = batch.astype(np.float16) if self.half else batch
        values = self.session.run(None, {self.input.name: batch})
        outputs = {o.name: v for o, v in zip(self.session.get_outputs(), values, strict=True)}
        return self.head.decode(outputs, self.width, self.height)


def number(text):
    """The number that a text starts with; 0 when it starts with none (C's atof)."""
    found = re.match(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)
    return float(found.group()) if found else 0.0


def read_cfg(path):
    sections = []
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            line = re.sub(r"\s", "", line)
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                sections.append((line.strip("[]"), {}))
            elif "=" in line:
                key, value = line.split("=", 1)
                sections[-1][1].setdefault(key, value)
    return sections


class DarknetNetwork:
    """A cfg with its .weights beside it, through OpenCV's dnn module (OpenCV 4; removed in 5)."""

    def __init__(self, path, size=None):
        sections = read_cfg(path)
        net = sections[0][1]
        self.width, self.height = size or (int(number(net["width"])), int(number(net["height"])))
        self.net = cv2.dnn.readNetFromDarknet(path, os.path.splitext(path)[0] + ".weights")
        self.names, self.heads = [], []
        for index, (kind, keys) in enumerate(sections[1:]):
            if kind != "yolo":
                continue
            numbers = [number(n) for n in keys["anchors"].split("#")[0].split(",")]
            anchors = list(zip(numbers[0::2], numbers[1::2]))
            mask = [int(number(m)) for m in keys["mask"].split(",")] if "mask" in keys else range(len(anchors))
            self.heads.append(
                {
                    "anchors": [anchors[m] for m in mask],
                    "classes": int(number(keys.get("classes", "20"))),
                    "scale_x_y": number(keys.get("scale_x_y", "1")),
                    "new_coords": number(keys.get("new_coords", "0")) != 0,
                }
            )
            # OpenCV names the convolution before the section after its own number; a linear one has no further layer.
            self.names.append(f"conv_{index - 1}")
        self.head_name, self.head = "darknet", HEADS["darknet"]

    def __call__(self, batch):
        self.net.setInput(batch)
        maps = [m[0] for m in self.net.forward(self.names)]
        return darknet_yolo(maps, self.heads, self.width, self.height)


def load(path, head=None, size=None):
    return DarknetNetwork(path, size) if path.endswith(".cfg") else OnnxNetwork(path, head, size)


def detect(network, picture_bgr, conf=None, iou_threshold=None, multi_label=False, limit=300):
    """Boxes in picture pixels [k, 4], scores, classes and landmarks (or None), best first."""
    head = network.head
    conf = head.conf if conf is None else conf
    iou_threshold = head.iou if iou_threshold is None else iou_threshold
    batch, mapping = prepare(picture_bgr, network.width, network.height, head.preprocess)
    boxes, scores, marks = network(batch)
    if multi_label:
        anchors, classes = np.nonzero(scores >= conf)
        best = scores[anchors, classes]
    else:
        classes = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), classes]
        anchors = np.nonzero(best >= conf)[0]
        classes, best = classes[anchors], best[anchors]
    kept = nms(boxes[anchors], best, classes, iou_threshold, limit)
    if marks is not None:
        marks = (marks[anchors[kept]] - np.array(mapping.offset)) / np.array(mapping.scale)
    return mapping.to_picture(boxes[anchors][kept]), best[kept], classes[kept], marks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--head", choices=sorted(HEADS))
    parser.add_argument("--size", help="WxH, for networks with a free input size")
    parser.add_argument("--conf", type=float)
    parser.add_argument("--iou", type=float)
    parser.add_argument("--names", help="file with one class name a line")
    parser.add_argument("--multi-label", action="store_true", help="a candidate per class instead of the best class")
    args = parser.parse_args()
    size = tuple(int(n) for n in args.size.split("x")) if args.size else None
    network = load(args.model, args.head, size)
    names = open(args.names, encoding="utf-8").read().splitlines() if args.names else []
    for path in args.pictures:
        picture = cv2.imread(path, cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{path}: not a picture")
        boxes, scores, classes, marks = detect(network, picture, args.conf, args.iou, args.multi_label)
        found = []
        for k in range(len(scores)):
            one = {
                "class": int(classes[k]),
                "label": names[classes[k]] if classes[k] < len(names) else f"class {classes[k]}",
                "score": float(scores[k]),
                "box": [float(v) for v in boxes[k]],
            }
            if marks is not None:
                one["landmarks"] = marks[k].tolist()
            found.append(one)
        print(json.dumps({"image": os.path.basename(path), "head": network.head_name, "detections": found}))


if __name__ == "__main__":
    main()
