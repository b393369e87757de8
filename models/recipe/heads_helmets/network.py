"""The detectors: a backbone of separable convolutions, a pyramid up and down, one anchor-free head per stride.

Everything is a 3x3 or 1x1 convolution, a depthwise convolution, ReLU, concatenation, 2x nearest upsampling; channel
counts are multiples of 16. The head gives, for each cell of strides 8, 16, 32, the distances from the cell's centre to
the left, top, right and bottom side in cells (linear) and one score per class.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Size:
    """Widths and depths of a network."""

    input_px: int
    # Channels at strides 2, 4, 8, 16, 32.
    widths: tuple
    # Blocks that keep the size at strides 4, 8, 16, 32.
    depths: tuple
    # Channels of the pyramid and of the heads.
    neck: int
    # Separable convolutions of each head.
    head_depth: int = 1


SIZES = {
    "small": Size(320, (16, 32, 64, 96, 160), (1, 2, 3, 2), 64),
    "large": Size(416, (32, 64, 128, 192, 320), (1, 3, 4, 2), 128, head_depth=2),
}


class Unit(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):
    """Depthwise convolution, then 1x1; nothing between them, as in Xception (Chollet 2017), which also halves the time
    that training spends in batch norms."""

    def __init__(self, inputs, outputs, kernel=3, stride=1):
        super().__init__(nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs), Unit(inputs, outputs))


class Stage(nn.Sequential):
    """Halves the size, then some blocks."""

    def __init__(self, inputs, outputs, depth):
        super().__init__(Separable(inputs, outputs, 3, 2), *[Separable(outputs, outputs) for _ in range(depth)])


class Head(nn.Module):
    """Distances `[n, 4, h, w]` and class logits `[n, classes, h, w]`."""

    def __init__(self, channels, classes, depth):
        super().__init__()
        tower = lambda: nn.Sequential(*[Separable(channels, channels) for _ in range(depth)])
        self.box_tower, self.class_tower = tower(), tower()
        self.box, self.score = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, classes, 1)
        nn.init.constant_(self.box.bias, 1.5)
        nn.init.normal_(self.box.weight, std=0.01)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.constant_(self.score.bias, -4.6)

    def forward(self, x):
        return self.box(self.box_tower(x)), self.score(self.class_tower(x))


class Detector(nn.Module):
    def __init__(self, size, classes=2):
        super().__init__()
        w, d, n = size.widths, size.depths, size.neck
        self.size, self.classes = size, classes
        self.stem = Unit(3, w[0], 3, 2)
        self.stage4 = Stage(w[0], w[1], d[0])
        self.stage8 = Stage(w[1], w[2], d[1])
        self.stage16 = Stage(w[2], w[3], d[2])
        self.stage32 = Stage(w[3], w[4], d[3])
        self.side16, self.side32 = Unit(w[3], n), Separable(w[4], n, 5)
        self.up16, self.up8 = Separable(2 * n, n, 5), Separable(n + w[2], n)
        self.shrink16, self.shrink32 = Unit(n, n, 3, 2, groups=n), Unit(n, n, 3, 2, groups=n)
        self.down16, self.down32 = Separable(2 * n, n, 5), Separable(2 * n, n, 5)
        self.heads = nn.ModuleList([Head(n, classes, size.head_depth) for _ in STRIDES])

    def flat_maps(self, x):
        """Distances in cells `[n, 4, cells]` and logits `[n, classes, cells]` of RGB pictures in 0..1."""
        x8 = self.stage8(self.stage4(self.stem(x)))
        x16 = self.stage16(x8)
        x32 = self.side32(self.stage32(x16))
        up = lambda y: F.interpolate(y, scale_factor=2, mode="nearest")
        y16 = self.up16(torch.cat([up(x32), self.side16(x16)], 1))
        y8 = self.up8(torch.cat([up(y16), x8], 1))
        y16 = self.down16(torch.cat([self.shrink16(y8), y16], 1))
        y32 = self.down32(torch.cat([self.shrink32(y16), x32], 1))
        boxes, scores = zip(*[head(y) for head, y in zip(self.heads, (y8, y16, y32))])
        # Sizes as plain numbers: an exported graph then computes none of them.
        flat = lambda maps: torch.cat([m.reshape(int(m.shape[0]), int(m.shape[1]), -1) for m in maps], 2)
        return flat(boxes), flat(scores)

    def forward(self, x):
        """Distances in cells `[n, cells, 4]` and logits `[n, cells, classes]` of RGB pictures in 0..1."""
        boxes, scores = self.flat_maps(x)
        return boxes.transpose(1, 2), scores.transpose(1, 2)


def cells(width_px, height_px):
    """Centres in pixels `[cells, 2]` and strides `[cells, 1]`, row by row, stride after stride."""
    points, strides = [], []
    for stride in STRIDES:
        ys, xs = torch.meshgrid(torch.arange(height_px // stride), torch.arange(width_px // stride), indexing="ij")
        points.append((torch.stack([xs, ys], -1).reshape(-1, 2).float() + 0.5) * stride)
        strides.append(torch.full((xs.numel(), 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


def boxes_of(distances, points, strides):
    """Corners x0, y0, x1, y1 in pixels from distances in cells."""
    return torch.cat([points - distances[..., :2] * strides, points + distances[..., 2:] * strides], -1)


def fold_batch_norms(module):
    """Moves each batch norm into the convolution before it; changes the module, which must be in eval mode."""
    for child in module.children():
        fold_batch_norms(child)
    if isinstance(module, nn.Sequential):
        for conv, norm in zip(list(module), list(module)[1:]):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = nn.utils.fuse_conv_bn_eval(conv, norm)
                position = list(module).index(conv)
                module[position], module[position + 1] = folded, nn.Identity()
    return module


def cost(network, width_px, height_px):
    """Parameters (batch norms folded) and multiply-accumulates of all convolutions for one picture."""
    macs, parameters, hooks = 0, 0, []

    def count(conv, _, output):
        nonlocal macs, parameters
        per_output = conv.weight[0].numel()
        macs += per_output * output.numel()
        parameters += conv.weight.numel() + conv.out_channels

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(count))
    training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, height_px, width_px))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return parameters, macs


if __name__ == "__main__":
    for name, size in SIZES.items():
        parameters, macs = cost(Detector(size), size.input_px, size.input_px)
        print(f"{name}: {size.input_px} px, {parameters} parameters, {macs / 1e9:.4f} GMAC")
