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


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def over_sum(x):
    return x / (x.sum(0) + 1e-4)


def stair(x):
    n = np.floor(x)
    return np.where(n % 2 == 0, np.floor(x / 2), (x - n) + np.floor(x / 2))


ACTIVATIONS = {
    "linear": lambda x: x,
    "logistic": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507 * np.where(x >= 0, x, 1.6732 * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
    "loggy": lambda x: 2 * sigmoid(x) - 1,
    "plse": lambda x: np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5)),
    "hardtan": lambda x: np.clip(x, -1, 1),
    "lhtan": lambda x: np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x)),
    "stair": stair,
    "normalize_channels": lambda x: over_sum(np.maximum(x, 0)),
    "normalize_channels_softmax": lambda x: over_sum(np.exp(x)),
    "normalize_channels_softmax_maxval": lambda x: over_sum(np.exp(x - x.max(0))),
}


def activation(name, x):
    return ACTIVATIONS[name](x)


def windows(x, size, strides, out, dilation=1):
    """For each tap of a window, `(row, column, the part of x that it reads)`; x is padded already."""
    height, width = out
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            yield i, j, x[
                :,
                top : top + (height - 1) * strides[0] + 1 : strides[0],
                left : left + (width - 1) * strides[1] + 1 : strides[1],
            ]


def convolve(x, weights, groups, strides, pad, dilation=1):
    """Cross-correlation of `[c, h, w]` with `[n, c/groups, k, k]`."""
    n, per_group, size, _ = weights.shape
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    reach = dilation * (size - 1) + 1
    height, width = ((x.shape[axis] - reach) // strides[axis - 1] + 1 for axis in (1, 2))
    out = np.zeros((n, height, width), x.dtype)
    for i, j, part in windows(x, size, strides, (height, width), dilation):
        if per_group == 1 and n == groups:
            out += part * weights[:, 0, i, j, None, None]
            continue
        for g in range(groups):
            rows = slice(g * n // groups, (g + 1) * n // groups)
            columns = part[g * per_group : (g + 1) * per_group].reshape(per_group, -1)
            out[rows] += (weights[rows, :, i, j] @ columns).reshape(-1, height, width)
    return out


def blur(x, kind, strides):
    """The fixed filter of `antialiasing=1|2`."""
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16 if kind == 1 else np.full((2, 2), 0.25)
    return convolve(x, np.broadcast_to(taps, (len(x), 1, *taps.shape)), len(x), strides, 1 if kind == 1 else 0)


def pool(x, size, strides, padding, mean=False):
    """`padding` is the sum of both sides; windows begin at −(padding div 2); what is outside does not count."""
    out = [(x.shape[axis] + padding - size) // strides[axis - 1] + 1 for axis in (1, 2)]
    begin = padding // 2
    room = [max(0, (out[k] - 1) * strides[k] + size - begin - x.shape[k + 1]) for k in (0, 1)]
    x = np.pad(x, ((0, 0), (begin, room[0]), (begin, room[1])), constant_values=np.nan)
    parts = np.stack([part for _, _, part in windows(x, size, strides, out)])
    return np.nanmean(parts, 0) if mean else np.nanmax(parts, 0)


def reorg(x, stride, reverse, flat):
    """The loops of both layers, on flat memory. `[reorg]` (flat) runs over the input's dims, `[reorg3d]` over the
    output's; `reverse` swaps source and destination."""
    c, h, w = x.shape
    block = stride * stride
    out_shape = (c // block, h * stride, w * stride) if reverse else (c * block, h // stride, w // stride)
    k, j, i = np.indices(x.shape if flat else out_shape)
    c, h, w = k.shape
    across, offset = k % (c // block), k // (c // block)
    near = (i + w * (j + h * k)).ravel()
    far = (i * stride + offset % stride + w * stride * (j * stride + offset // stride + h * stride * across)).ravel()
    out = np.empty(x.size, x.dtype)
    if reverse:
        out[far] = x.ravel()[near]
    else:
        out[near] = x.ravel()[far]
    return out.reshape(out_shape)


def response_norm(x, size, alpha, beta, kappa):
    """Local response normalisation with Darknet's moving sum."""
    squared, norms = alpha * x**2, np.empty_like(x)
    norms[0] = kappa + squared[: size // 2].sum(0)
    for k in range(1, len(x)):
        norms[k] = norms[k - 1]
        if k - (size - 1) // 2 - 1 >= 0:
            norms[k] -= squared[k - (size - 1) // 2 - 1]
        if k + size // 2 < len(x):
            norms[k] += squared[k + size // 2]
    return x * norms**-beta


def softmax(x, axis):
    raised = np.exp(x - x.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


HEADS = ("yolo", "Gaussian_yolo", "region", "detection")
SILENT = ("dropout", "cost", "empty", "silence", "contrastive")
LONG_NAMES = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
    "local_avg": "local_avgpool",
    "lrn": "normalization",
}


class Network:
    """`weights` is a file, or a function `(count, role) -> numbers` that makes them up; `written` then holds them."""

    def __init__(self, cfg, weights, epsilon=1e-5, dtype=np.float64):
        self.sections = read_cfg(Path(cfg).read_text())
        self.epsilon, self.dtype = epsilon, dtype
        self.drawn = weights if callable(weights) else None
        self.transposed = False
        if not self.drawn:
            raw = Path(weights).read_bytes()
            major, minor = np.frombuffer(raw, "<i4", 2)
            self.transposed = major > 1000 or minor > 1000
            self.floats = np.frombuffer(raw, "<f4", offset=20 if major * 10 + minor >= 2 else 16)
        net = self.sections[0][1]
        self.shape = tuple(int(net[key]) for key in ("channels", "height", "width"))

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
        if index < 0:
            return "input"
        kind, keys = self.sections[1 + index]
        if kind in SILENT or kind in HEADS:
            return self.name(index - 1)
        if kind == "activation" and keys.get("activation", "linear") == "linear":
            return self.name(index - 1)
        if kind == "route" and "," not in keys["layers"].rstrip(",") and keys.get("groups", "1") == "1":
            return self.name(self.refer(index, keys["layers"])[0])
        return f"{LONG_NAMES.get(kind, kind)}_{index}"

    @staticmethod
    def refer(index, text):
        values = [int(v) for v in text.split(",") if v]
        return [index + v if v < 0 else v for v in values]

    def take(self, count, role="weights"):
        if self.drawn:
            part = np.asarray(self.drawn(count, role), np.float32)
            self.written.append(part)
        else:
            part = self.floats[self.at : self.at + count]
            if len(part) < count:
                raise ValueError(f"the weights file ends {count - len(part)} floats early")
        self.at += count
        return part.astype(self.dtype)

    def take_norm(self, n):
        """Scale, mean and deviation of a batch-norm."""
        scale, mean, variance = self.take(n, "scales"), self.take(n, "mean"), self.take(n, "variance")
        return scale, mean, np.sqrt(variance + self.epsilon)

    def forward(self, x):
        """`[1, c, h, w]` in, `{value name: array [1, c, h, w]}` of what the heads read (or the last layer) out."""
        x = np.asarray(x, self.dtype)[0]
        self.at, self.outputs, self.written, self.kept = 0, [], [], {}
        found = {}
        for index, (kind, keys) in enumerate(self.sections[1:]):
            kind = LONG_NAMES.get(kind, kind)
            self.index, self.keys = index, keys
            if kind == "detection":
                own = x.shape[1:] == (1, 1)
                found[self.name(index) if own else f"detection_{index}"] = x.reshape(1, -1, 1, 1)
            elif kind in HEADS:
                found[self.name(index)] = x[None]
            elif kind not in SILENT:
                if not hasattr(self, kind):
                    raise ValueError(f"[{kind}] is not known to the reference")
                x = getattr(self, kind)(x)
            self.outputs.append(x)
        if not self.drawn and self.at != len(self.floats):
            raise ValueError(f"{len(self.floats) - self.at} floats of the weights file are left over")
        return found or {self.name(len(self.outputs) - 1): x[None]}

    def number(self, key, default):
        return int(float(self.keys.get(key, default)))

    def real(self, key, default):
        return float(self.keys.get(key, default))

    def activated(self, x, default="linear"):
        return activation(self.keys.get("activation", default), x)

    def from_layers(self, key="from"):
        return [self.outputs[k] for k in self.refer(self.index, self.keys[key])]

    def strides(self):
        """Vertical and horizontal; and what is left for the layer itself in front of a blur."""
        stride = self.number("stride", 1)
        strides = (self.number("stride_y", stride), self.number("stride_x", stride))
        return strides, ((1, 1) if self.number("antialiasing", 0) else strides)

    # ------------------------------------------------------------ sections

    def convolutional(self, x):
        n, size, groups = self.number("filters", 1), self.number("size", 1), self.number("groups", 1)
        strides, own_strides = self.strides()
        if "share_index" in self.keys:
            weights, factor, bias = self.kept[self.refer(self.index, self.keys["share_index"])[0]]
        else:
            bias, factor = self.take(n, "biases"), np.ones(n)
            if self.number("batch_normalize", 0):
                scale, mean, deviation = self.take_norm(n)
                factor = scale / deviation
                bias = bias - mean * factor
            weights = self.take(n * len(x) // groups * size * size)
            if self.number("flipped", 0):
                weights = weights.reshape(-1, n).T
            weights = weights.reshape(n, -1, size, size)
            if self.number("xnor", 0) or self.number("binary", 0):
                mean = np.abs(weights).mean((1, 2, 3), keepdims=True)
                weights = np.where(weights > 0, mean, -mean)
        self.kept[self.index] = weights, factor, bias
        if self.number("xnor", 0):
            x = np.where(x > 0, 1.0, -1.0)
        pad = size // 2 if self.number("pad", 0) else self.number("padding", 0)
        dilation = self.number("dilation", 1) if size > 1 else 1
        x = convolve(x, weights, groups, own_strides, pad * dilation, dilation) * factor[:, None, None]
        x = self.activated(x + bias[:, None, None], "logistic")
        kind = self.number("antialiasing", 0)
        return blur(x, kind, strides) if kind else x

    def connected(self, x):
        n = self.number("output", 1)
        bias, weights = self.take(n, "biases"), self.take(n * x.size)
        weights = weights.reshape(-1, n).T if self.transposed else weights.reshape(n, -1)
        y = weights @ x.ravel()
        if self.number("batch_normalize", 0):
            scale, mean, deviation = self.take_norm(n)
            y = scale * (y - mean) / deviation
        return self.activated((y + bias).reshape(n, 1, 1), "logistic")

    def local(self, x):
        n, size, stride = self.number("filters", 1), self.number("size", 1), self.number("stride", 1)
        pad = int(self.number("pad", 0) != 0)
        height, width = ((length - (1 if pad else size)) // stride + 1 for length in x.shape[1:])
        y = self.take(n * height * width, "biases").reshape(n, height, width)
        weights = self.take(height * width * n * len(x) * size * size).reshape(height, width, n, -1)
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        for j in range(height):
            for i in range(width):
                patch = x[:, j * stride : j * stride + size, i * stride : i * stride + size]
                y[:, j, i] += weights[j, i] @ patch.ravel()
        return self.activated(y, "logistic")

    def maxpool(self, x, mean=False):
        if self.number("maxpool_depth", 0):
            n = self.number("out_channels", 1)
            return np.stack([x[g::n].max(0) for g in range(n)])
        strides, own_strides = self.strides()
        size = self.number("size", self.number("stride", 1))
        x = pool(x, size, own_strides, self.number("padding", size - 1), mean)
        kind = self.number("antialiasing", 0)
        return blur(x, kind, strides) if kind else x

    def local_avgpool(self, x):
        return self.maxpool(x, mean=True)

    def avgpool(self, x):
        return x.mean((1, 2), keepdims=True)

    def upsample(self, x):
        stride, scale = self.number("stride", 2), self.real("scale", 1)
        if stride > 0:
            return x.repeat(stride, 1).repeat(stride, 2) * scale
        c, h, w = x.shape
        return x.reshape(c, h // -stride, -stride, w // -stride, -stride).sum((2, 4)) * scale

    def route(self, x):
        groups, group = self.number("groups", 1), self.number("group_id", 0)
        return np.concatenate([np.split(part, groups)[group] for part in self.from_layers("layers")])

    def shortcut(self, x):
        parts = [x, *self.from_layers()]
        kind = self.keys.get("weights_type", "none")
        each = {"none": 0, "per_channel": len(x)}.get(kind, 1)
        if each:
            weights = self.take(len(parts) * each).reshape(len(parts), each, 1, 1)
            normalise = self.keys.get("weights_normalization", "none")
            if normalise == "relu":
                weights = np.maximum(weights, 0.001)
            elif normalise == "softmax":
                weights = np.exp(weights - weights.max(0))
            if normalise != "none":
                weights = weights / (weights.sum(0) + 1e-4)
            parts = [part * w[: len(part)] for part, w in zip(parts, weights)]
        y = parts[0].copy()
        alpha, beta = self.real("alpha", 1), self.real("beta", 1)
        for part in parts[1:]:
            stride, sample = max(1, part.shape[1] // y.shape[1]), max(1, y.shape[1] // part.shape[1])
            common = min(len(y), len(part))
            target = y[:common, ::sample, ::sample]
            target[:] = alpha * target + beta * part[:common, ::stride, ::stride]
        return self.activated(y)

    def scale_channels(self, x):
        return self.activated(self.from_layers()[0] * x)

    sam = scale_channels

    def reorg(self, x):
        return reorg(x, self.number("stride", 1), self.number("reverse", 0), flat=True)

    def reorg3d(self, x):
        return reorg(x, self.number("stride", 1), self.number("reverse", 0), flat=False)

    def batchnorm(self, x):
        bias = self.take(len(x), "biases")
        scale, mean, deviation = (v[:, None, None] for v in self.take_norm(len(x)))
        return scale * (x - mean) / deviation + bias[:, None, None]

    def activation(self, x):
        return self.activated(x)

    def softmax(self, x):
        x = x / self.real("temperature", 1)
        if self.number("spatial", 0):
            return softmax(x, 0)
        return softmax(x.reshape(self.number("groups", 1), -1), 1).reshape(x.shape)

    def crop(self, x):
        height, width = self.number("crop_height", 1), self.number("crop_width", 1)
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        x = x[:, top : top + height, left : left + width]
        return x if self.number("noadjust", 0) else 2 * x - 1

    def normalization(self, x):
        return response_norm(
            x, self.number("size", 5), self.real("alpha", 1e-4), self.real("beta", 0.75), self.real("kappa", 1)
        )

    def implicit(self, x):
        filters, atoms = self.number("filters", 128), self.number("atoms", 1)
        return self.take(filters * atoms).reshape(filters, atoms, 1)


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
