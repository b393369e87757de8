"""A Darknet network in numpy, f64: the reference for `eyas run` on Darknet files.

Written from the layers' formulae, apart from the Rust importer. `epsilon` is what the batch-norm adds to the variance:
Darknet's own is 1e-5; OpenCV's dnn module uses 1e-6, which is how this file is itself checked:

    python darknet.py NET.cfg NET.weights      # this against OpenCV, both with 1e-6
"""

import math
import sys
from pathlib import Path

import numpy as np


def read_cfg(text):
    """Sections as `(name, {key: value})`; spaces dropped, comments skipped, the first of equal keys counts."""
    sections = []
    for line in text.splitlines():
        line = "".join(line.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            sections.append((line[1 : line.index("]")], {}))
        else:
            key, value = line.split("=", 1)
            if value:
                sections[-1][1].setdefault(key, value.split("#")[0])
    return sections


def activation(name, x):
    sigmoid = lambda v: 1 / (1 + np.exp(-np.clip(v, -700, 700)))
    return {
        "linear": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "leaky": lambda: np.where(x > 0, x, 0.1 * x),
        "logistic": lambda: sigmoid(x),
        "swish": lambda: x * sigmoid(x),
        "mish": lambda: x * np.tanh(np.logaddexp(0, x)),
        "tanh": lambda: np.tanh(x),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    }[name]()


def convolve(x, weights, groups, stride, pad):
    """Cross-correlation of `[c, h, w]` with `[n, c/groups, k, k]`."""
    n, per_group, size, _ = weights.shape
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    out = np.zeros((n, height, width), x.dtype)
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            if per_group == 1 and n == groups:
                out += part * weights[:, 0, i, j, None, None]
                continue
            for g in range(groups):
                rows = slice(g * n // groups, (g + 1) * n // groups)
                columns = part[g * per_group : (g + 1) * per_group].reshape(per_group, -1)
                out[rows] += (weights[rows, :, i, j] @ columns).reshape(-1, height, width)
    return out


def max_pool(x, size, stride, padding):
    """`padding` is the sum of both sides; windows begin at −(padding div 2)."""
    height = (x.shape[1] + padding - size) // stride + 1
    width = (x.shape[2] + padding - size) // stride + 1
    begin = padding // 2
    room = [max(0, (n - 1) * stride + size - begin - length) for n, length in ((height, x.shape[1]), (width, x.shape[2]))]
    x = np.pad(x, ((0, 0), (begin, room[0]), (begin, room[1])), constant_values=-np.inf)
    out = np.full((x.shape[0], height, width), -np.inf, x.dtype)
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            out = np.maximum(out, part)
    return out


class Network:
    def __init__(self, cfg, weights, epsilon=1e-5, dtype=np.float64):
        self.sections = read_cfg(Path(cfg).read_text())
        self.epsilon, self.dtype = epsilon, dtype
        raw = Path(weights).read_bytes()
        major, minor = np.frombuffer(raw, "<i4", 2)
        self.floats = np.frombuffer(raw, "<f4", offset=20 if major * 10 + minor >= 2 else 16)
        net = self.sections[0][1]
        self.shape = tuple(int(net[key]) for key in ("channels", "height", "width"))
        self.classes = None

    def heads(self):
        """For each `[yolo]`: number of the layer that it reads, its anchors in pixels, and its keys."""
        found = []
        for index, (kind, keys) in enumerate(self.sections[1:]):
            if kind == "yolo":
                sides = [float(v) for v in keys["anchors"].split(",") if v]
                anchors = np.array(sides).reshape(-1, 2)
                mask = [int(v) for v in keys["mask"].split(",") if v] if "mask" in keys else range(len(anchors))
                found.append((index - 1, anchors[list(mask)], keys))
        return found

    def name(self, index):
        """Name of the value of layer `index`, as eyas gives it: sections without arithmetic pass their input on."""
        kind, keys = self.sections[1 + index]
        if kind in ("dropout", "cost", "empty", "silence", "yolo"):
            return self.name(index - 1)
        if kind == "route" and "," not in keys["layers"].rstrip(",") and keys.get("groups", "1") == "1":
            return self.name(self.refer(index, keys["layers"])[0])
        long_names = {"conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool", "soft": "softmax"}
        return f"{long_names.get(kind, kind)}_{index}"

    @staticmethod
    def refer(index, text):
        values = [int(v) for v in text.split(",") if v]
        return [index + v if v < 0 else v for v in values]

    def take(self, count):
        part = self.floats[self.at : self.at + count]
        if len(part) < count:
            raise ValueError(f"the weights file ends {count - len(part)} floats early")
        self.at += count
        return part.astype(self.dtype)

    def forward(self, x):
        """`[1, c, h, w]` in, `{value name: array [1, c, h, w]}` of what the heads read (or the last layer) out."""
        x = np.asarray(x, self.dtype)[0]
        self.at, outputs, found = 0, [], {}
        for index, (kind, keys) in enumerate(self.sections[1:]):
            number = lambda key, default: int(float(keys.get(key, default)))
            if kind in ("convolutional", "conv"):
                x = self.convolutional(x, keys, number)
            elif kind in ("maxpool", "max"):
                stride = number("stride", 1)
                size = number("size", stride)
                x = max_pool(x, size, stride, number("padding", size - 1))
            elif kind in ("avgpool", "avg"):
                x = x.mean((1, 2), keepdims=True)
            elif kind == "upsample":
                x = x.repeat(number("stride", 2), 1).repeat(number("stride", 2), 2) * float(keys.get("scale", 1))
            elif kind == "route":
                groups, group = number("groups", 1), number("group_id", 0)
                parts = [outputs[k] for k in self.refer(index, keys["layers"])]
                x = np.concatenate([np.split(part, groups)[group] for part in parts])
            elif kind == "shortcut":
                x = x.copy()
                for k in self.refer(index, keys["from"]):
                    channels = min(len(x), len(outputs[k]))
                    x[:channels] += outputs[k][:channels]
                x = activation(keys.get("activation", "linear"), x)
            elif kind in ("scale_channels", "sam"):
                x = activation(keys.get("activation", "linear"), x * outputs[self.refer(index, keys["from"])[0]])
            elif kind == "yolo":
                found[self.name(index)] = x[None]
            elif kind not in ("dropout", "cost", "empty", "silence"):
                raise ValueError(f"[{kind}] is not known to the reference")
            outputs.append(x)
        if self.at != len(self.floats):
            raise ValueError(f"{len(self.floats) - self.at} floats of the weights file are left over")
        return found or {self.name(len(outputs) - 1): x[None]}

    def convolutional(self, x, keys, number):
        n, size, groups = number("filters", 1), number("size", 1), number("groups", 1)
        pad = size // 2 if number("pad", 0) else number("padding", 0)
        bias = self.take(n)
        factor = np.ones(n)
        if number("batch_normalize", 0):
            scale, mean, variance = self.take(n), self.take(n), self.take(n)
            factor = scale / np.sqrt(variance + self.epsilon)
            bias = bias - mean * factor
        weights = self.take(n * len(x) // groups * size * size).reshape(n, -1, size, size)
        x = convolve(x, weights * factor[:, None, None, None], groups, number("stride", 1), pad)
        return activation(keys.get("activation", "logistic"), x + bias[:, None, None])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def check_against_opencv(cfg, weights):
    """Largest difference between OpenCV's heads and those of this file with OpenCV's epsilon."""
    import cv2

    network = Network(cfg, weights, epsilon=1e-6)
    x = np.random.default_rng(0).random((1, *network.shape), np.float32)
    ours = network.forward(x)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setInput(x)
    names = net.getUnconnectedOutLayersNames()
    theirs = dict(zip(names, net.forward(names)))
    worst = 0.0
    for (index, anchors, keys), raw in zip(network.heads(), ours.values()):
        classes = int(keys["classes"])
        _, _, height, width = raw.shape
        # OpenCV gives rows cx, cy, w, h (of the network's input), objectness, class scores.
        maps = raw.reshape(len(anchors), 5 + classes, height, width).transpose(2, 3, 0, 1)
        scale = float(keys.get("scale_x_y", 1))
        column, row = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
        rows = np.empty_like(maps)
        rows[..., 0] = (sigmoid(maps[..., 0]) * scale - (scale - 1) / 2 + column) / width
        rows[..., 1] = (sigmoid(maps[..., 1]) * scale - (scale - 1) / 2 + row) / height
        rows[..., 2] = np.exp(maps[..., 2]) * anchors[:, 0] / network.shape[2]
        rows[..., 3] = np.exp(maps[..., 3]) * anchors[:, 1] / network.shape[1]
        rows[..., 4:] = sigmoid(maps[..., 4:])
        rows[..., 5:] *= rows[..., 4:5]
        # OpenCV zeroes class scores below its threshold of 0.2; compare those above.
        expected = theirs[f"yolo_{index + 1}"].reshape(rows.shape)
        shown = expected[..., 5:] > 0
        worst = max(worst, np.abs(rows[..., :5] - expected[..., :5]).max())
        worst = max(worst, np.abs(rows[..., 5:] - expected[..., 5:])[shown].max(initial=0))
    if not math.isfinite(worst):
        worst = math.inf
    return worst


if __name__ == "__main__":
    difference = check_against_opencv(sys.argv[1], sys.argv[2])
    print(f"largest difference from OpenCV's decoded heads: {difference:.2e}")
    sys.exit(1 if difference > 1e-4 else 0)
