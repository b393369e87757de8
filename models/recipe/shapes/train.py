"""Trains the shapes detector and writes it as ONNX.

    python train.py --out ../../shapes.onnx          # ten minutes of one CPU core

Needs torch, onnx, numpy, pillow. The network: 192x192 RGB input, a plain backbone of 3x3 convolutions with ReLU, a
small feature pyramid, one anchor-free head per stride 8, 16, 32. The head gives distances to the four sides in cells
(8·sigmoid) and one score per class; boxes are decoded in the graph, in the output form of the YOLOv8 family:
`[1, 4 + classes, cells]` with rows cx, cy, w, h in pixels of the input and then sigmoid scores.

Targets are chosen as in TOOD (Feng et al. 2021, task-aligned assignment), the box loss is GIoU (Rezatofighi et al.
2019), the score loss is cross-entropy against the alignment.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from make_pictures import NAMES, letterboxed, render

SIDE = 192
STRIDES = (8, 16, 32)
REACH = 8.0
TOP = 8


class Unit(nn.Sequential):
    """3x3 (or 1x1) convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, stride=1, kernel=3):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Shapes(nn.Module):
    def __init__(self, classes=len(NAMES)):
        super().__init__()
        self.stem = nn.Sequential(Unit(3, 8, 2), Unit(8, 12, 2), Unit(12, 12))
        self.down8 = nn.Sequential(Unit(12, 24, 2), Unit(24, 24))
        self.down16 = nn.Sequential(Unit(24, 32, 2), Unit(32, 32))
        self.down32 = nn.Sequential(Unit(32, 40, 2), Unit(40, 40))
        self.side = nn.ModuleList([Unit(24, 24, kernel=1), Unit(32, 24, kernel=1), Unit(40, 24, kernel=1)])
        self.head = nn.ModuleList([nn.Sequential(Unit(24, 24), nn.Conv2d(24, 4 + classes, 1)) for _ in STRIDES])
        for head in self.head:
            nn.init.zeros_(head[-1].bias)
            head[-1].bias.data[:4] = -1.0
            head[-1].bias.data[4:] = -4.0
        points, strides = [], []
        for stride in STRIDES:
            n = SIDE // stride
            ys, xs = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
            points.append(torch.stack([xs.reshape(-1), ys.reshape(-1)]).float().add(0.5) * stride)
            strides.append(torch.full((1, n * n), float(stride)))
        self.register_buffer("points", torch.cat(points, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1)[None])

    def raw(self, x):
        """Distances left, top, right, bottom in pixels `[n, 4, cells]` and score logits `[n, classes, cells]`."""
        x8 = self.down8(self.stem(x))
        x16 = self.down16(x8)
        x32 = self.down32(x16)
        y32 = self.side[2](x32)
        y16 = self.side[1](x16) + F.interpolate(y32, scale_factor=2, mode="nearest")
        y8 = self.side[0](x8) + F.interpolate(y16, scale_factor=2, mode="nearest")
        maps = [head(y).flatten(2) for head, y in zip(self.head, (y8, y16, y32))]
        joined = torch.cat(maps, 2)
        return joined[:, :4].sigmoid() * (REACH * self.strides), joined[:, 4:]

    def forward(self, x):
        sides, logits = self.raw(x)
        near, far = sides[:, :2], sides[:, 2:]
        centre = self.points + (far - near) * 0.5
        return torch.cat([centre, near + far, logits.sigmoid()], 1)


def iou(a, b, generalised=False):
    """IoU (or GIoU) of boxes `[..., 4]` x0 y0 x1 y1, broadcast."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    union = area_a + area_b - shared + 1e-6
    value = shared / union
    if generalised:
        hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1) + 1e-6
        value = value - (hull - union) / hull
    return value


def loss_of(net, pictures, boxes):
    """`boxes` `[n, most, 5]`, class −1 where there is none."""
    sides, logits = net.raw(pictures)
    points = net.points[0].T
    sides, logits = sides.permute(0, 2, 1), logits.permute(0, 2, 1)
    found = torch.cat([points - sides[..., :2], points + sides[..., 2:]], 2)
    n, most = boxes.shape[:2]
    with torch.no_grad():
        kinds = boxes[..., 0].long()
        real = kinds >= 0
        overlaps = iou(boxes[:, :, None, 1:], found[:, None]).clamp(min=0)
        scores = logits.sigmoid().gather(2, kinds.clamp(min=0)[:, None].expand(-1, points.shape[0], -1)).permute(0, 2, 1)
        inside = ((points > boxes[:, :, None, 1:3]) & (points < boxes[:, :, None, 3:])).all(-1) & real[..., None]
        # Distances above the head's reach cannot be expressed at this stride.
        extent = torch.maximum(points - boxes[:, :, None, 1:3], boxes[:, :, None, 3:] - points).amax(-1)
        inside &= extent < net.strides[0, 0] * (REACH * 0.95)
        alignment = (scores + 1e-6).sqrt() * (overlaps + 1e-3) ** 4 * inside
        best, index = alignment.topk(TOP, 2)
        chosen = torch.zeros_like(alignment).scatter_(2, index, (best > 0).float())
        chosen *= inside
        # A cell that two boxes want goes to the one that it overlaps more.
        rivals = torch.where(chosen > 0, overlaps + 1e-6, torch.zeros_like(overlaps))
        owner = rivals.argmax(1)
        positive = rivals.amax(1) > 0
        mine = F.one_hot(owner, most).permute(0, 2, 1) * chosen
        aligned = alignment * mine
        peak = aligned.amax(2, keepdim=True)
        quality = aligned / (peak + 1e-9) * (overlaps * mine).amax(2, keepdim=True)
        weight = quality.sum(1)
        target_kind = kinds.gather(1, owner).clamp(min=0)
        target = F.one_hot(target_kind, logits.shape[2]) * (weight * positive)[..., None]
        target_box = boxes[..., 1:].gather(1, owner[..., None].expand(-1, -1, 4))
    total = target.sum().clamp(min=1)
    focus = (target - logits.sigmoid()).abs().detach() ** 1.5
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    scores_loss = (entropy * torch.where(target > 0, torch.ones_like(focus), focus)).sum()
    box_loss = ((1 - iou(found[positive], target_box[positive], True)) * weight[positive]).sum()
    return (scores_loss + 2.5 * box_loss) / total


def make_set(rng, count):
    pictures, labels = [], []
    for i in range(count):
        width, height = [(192, 144), (144, 192), (192, 192), (192, 108)][i % 4]
        square, boxes = letterboxed(*render(rng, width, height), SIDE)
        pictures.append(np.asarray(square))
        padded = np.full((10, 5), -1, np.float32)
        padded[: len(boxes)] = boxes
        labels.append(padded)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(labels))


def varied(pictures, boxes, rng):
    """Mirrored, with channels permuted, with other brightness and contrast, at random."""
    x = pictures.float() / 255
    if rng.random() < 0.5:
        x, boxes = x.flip(3), mirrored(boxes, 0)
    if rng.random() < 0.5:
        x, boxes = x.flip(2), mirrored(boxes, 1)
    if rng.random() < 0.5:
        x, boxes = x.transpose(2, 3), boxes[..., [0, 2, 1, 4, 3]]
    x = x[:, torch.from_numpy(rng.permutation(3))]
    n = x.shape[0]
    gain = torch.from_numpy(rng.uniform(0.6, 1.3, (n, 1, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.15, 0.15, (n, 3, 1, 1))).float()
    return (x * gain + shift).clamp(0, 1).contiguous(), boxes


def mirrored(boxes, axis):
    flipped = boxes.clone()
    flipped[..., 1 + axis] = torch.where(boxes[..., 0] >= 0, SIDE - boxes[..., 3 + axis], -1)
    flipped[..., 3 + axis] = torch.where(boxes[..., 0] >= 0, SIDE - boxes[..., 1 + axis], -1)
    return flipped


def suppressed(columns, threshold=0.01, limit=0.6):
    """Detections `[class, score, x0, y0, x1, y1]` of one output `[4 + C, cells]`, after NMS per class."""
    boxes = np.concatenate([columns[:2] - columns[2:4] / 2, columns[:2] + columns[2:4] / 2]).T
    rows = []
    for kind in range(columns.shape[0] - 4):
        scores = columns[4 + kind]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > threshold][:100]
        candidates = torch.from_numpy(boxes[order])
        overlaps = iou(candidates[:, None], candidates[None]).numpy()
        kept = []
        for i in range(len(order)):
            if not kept or overlaps[i, kept].max() <= limit:
                kept.append(i)
        rows += [[kind, scores[order[i]], *boxes[order[i]]] for i in kept]
    return np.array(rows, np.float32).reshape(-1, 6)


def average_precision(net, pictures, labels, thresholds=(0.5, 0.75, 0.9)):
    """Mean over the classes of the area under the 101-point precision-recall curve, per IoU threshold."""
    net.eval()
    found = []
    with torch.no_grad():
        for i in range(0, len(pictures), 32):
            found += [suppressed(o.numpy()) for o in net(pictures[i : i + 32].float() / 255)]
    means = []
    for threshold in thresholds:
        per_class = []
        for kind in range(len(NAMES)):
            rows, truths = [], 0
            for detections, truth in zip(found, labels):
                truth = truth[truth[:, 0] == kind, 1:]
                truths += len(truth)
                taken = np.zeros(len(truth), bool)
                mine = detections[detections[:, 0] == kind]
                for row in mine[np.argsort(-mine[:, 1])]:
                    overlaps = iou(torch.from_numpy(row[2:])[None], truth).numpy() if len(truth) else np.zeros(0)
                    overlaps = np.where(taken, 0, overlaps)
                    hit = len(truth) > 0 and overlaps.max() >= threshold
                    if hit:
                        taken[overlaps.argmax()] = True
                    rows.append((row[1], hit))
            rows.sort(key=lambda r: -r[0])
            hits = np.cumsum([h for _, h in rows])
            precision = hits / np.arange(1, len(rows) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            recall = hits / max(truths, 1)
            per_class.append(np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]))
        means.append(float(np.mean(per_class)))
    return means


def export(net, path):
    import onnx

    net.eval()
    torch.onnx.export(
        net, torch.zeros(1, 3, SIDE, SIDE), str(path), opset_version=17, input_names=["images"], output_names=["output0"]
    )
    model = onnx.load(path)
    for key, value in {
        "description": "eyas shapes detector",
        "task": "detect",
        "stride": "32",
        "batch": "1",
        "imgsz": f"[{SIDE}, {SIDE}]",
        "names": str(dict(enumerate(NAMES))),
    }.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "../../shapes.onnx")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=9.5, help="time for training")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    began = time.time()
    pictures, labels = make_set(rng, options.pictures)
    held_pictures, held_labels = make_set(np.random.default_rng(options.seed + 1000), options.held_out)
    print(f"{options.pictures} + {options.held_out} scenes rendered in {time.time() - began:.0f} s", flush=True)
    net = Shapes().to(memory_format=torch.channels_last)
    print(sum(p.numel() for p in net.parameters()), "parameters", flush=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0},
        ]
    )
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
    began, step, seconds = time.time(), 0, options.minutes * 60
    while (share := (time.time() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * share)) + 0.005)
        chosen = torch.from_numpy(rng.integers(0, len(pictures), options.batch))
        x, boxes = varied(pictures[chosen], labels[chosen], rng)
        net.train()
        loss = loss_of(net, x.contiguous(memory_format=torch.channels_last), boxes)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10)
        optimiser.step()
        average.update_parameters(net)
        if step % 100 == 0:
            print(f"step {step} after {time.time() - began:.0f} s: loss {loss.item():.3f}", flush=True)
        step += 1
    net = average.module.to(memory_format=torch.contiguous_format)
    export(net, options.out)
    scores = average_precision(net, held_pictures, held_labels)
    print(f"{step} steps; held-out AP50 {scores[0]:.4f}, AP75 {scores[1]:.4f}, AP90 {scores[2]:.4f}")
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
