"""What training minimises.

Each labelled box picks the cells that predict it best so far (task-aligned assignment: Feng et al., TOOD, 2021, with
the score to the power 1/2 and the overlap to the power 6). Those cells learn the box (complete IoU: Zheng et al. 2020,
and the distances themselves) and, as their score, how well they do; all others learn the score 0.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from network import boxes_of

CELLS_PER_BOX = 10
# Cells within a box may predict it; a small box is taken for one of this side, or it would have no cell to choose.
SMALLEST_SIDE_PX = 16.0
WEIGHTS = {"score": 0.5, "box": 7.5, "distance": 1.0}


def overlaps(a, b, complete=False):
    """Intersection over union of boxes, row by row; complete IoU also counts the centres' distance and the aspect."""
    eps = 1e-7
    aw, ah, bw, bh = a[:, 2] - a[:, 0], a[:, 3] - a[:, 1], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
    w = torch.minimum(a[:, 2], b[:, 2]) - torch.maximum(a[:, 0], b[:, 0])
    h = torch.minimum(a[:, 3], b[:, 3]) - torch.maximum(a[:, 1], b[:, 1])
    both = w.clamp(min=0) * h.clamp(min=0)
    iou = both / (aw.clamp(min=0) * ah.clamp(min=0) + bw * bh - both + eps)
    if not complete:
        return iou
    hull_w = torch.maximum(a[:, 2], b[:, 2]) - torch.minimum(a[:, 0], b[:, 0])
    hull_h = torch.maximum(a[:, 3], b[:, 3]) - torch.minimum(a[:, 1], b[:, 1])
    apart = ((a[:, 0] + a[:, 2] - b[:, 0] - b[:, 2]) ** 2 + (a[:, 1] + a[:, 3] - b[:, 1] - b[:, 3]) ** 2) / 4
    aspect = (torch.atan(bw / (bh + eps)) - torch.atan(aw.clamp(min=eps) / ah.clamp(min=eps))) ** 2 * (4 / math.pi**2)
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return iou - apart / (hull_w**2 + hull_h**2 + eps) - weight * aspect


@torch.no_grad()
def assign(scores, boxes, points, owners, truths):
    """Cells that learn a box: image, cell, index of the box, target score.

    `scores` `[n, cells, classes]`, `boxes` `[n, cells, 4]`, `points` `[cells, 2]`; `truths` `[boxes, 5]` lie in the
    images `owners` `[boxes]`.
    """
    middle = (truths[:, 1:3] + truths[:, 3:5]) / 2
    half = ((truths[:, 3:5] - truths[:, 1:3]) / 2).clamp(min=SMALLEST_SIDE_PX / 2)
    inside = ((points[None] - middle[:, None]).abs() < half[:, None]).all(-1)
    box, cell = inside.nonzero(as_tuple=True)
    image = owners[box]
    iou = overlaps(boxes[image, cell], truths[box, 1:])
    metric = scores[image, cell, truths[box, 0].long()].sqrt() * iou**6 + 1e-9
    table = metric.new_zeros(len(truths), len(points))
    table[box, cell] = metric
    limit = table.topk(min(CELLS_PER_BOX, table.shape[1]), 1).values[:, -1]
    chosen = metric >= limit[box]
    box, cell, image, iou, metric = (v[chosen] for v in (box, cell, image, iou, metric))
    # A cell that several boxes chose goes to the one that it overlaps most.
    order = np.lexsort((-iou.numpy(), (image * len(points) + cell).numpy()))
    keys = (image * len(points) + cell).numpy()[order]
    first = torch.from_numpy(order[np.concatenate([[True], keys[1:] != keys[:-1]])]) if len(order) else order
    box, cell, image, iou, metric = (v[first] for v in (box, cell, image, iou, metric))
    best_metric = metric.new_zeros(len(truths)).scatter_reduce_(0, box, metric, "amax")
    best_iou = iou.new_zeros(len(truths)).scatter_reduce_(0, box, iou, "amax")
    return image, cell, box, metric / best_metric[box] * best_iou[box]


def losses(distances, logits, points, strides, owners, truths):
    """Weighted losses by name. `distances` `[n, cells, 4]` in cells, `logits` `[n, cells, classes]`."""
    boxes = boxes_of(distances, points, strides)
    targets = torch.zeros_like(logits)
    zero = logits.sum() * 0
    box_loss, distance_loss, total = zero, zero, 1.0
    if len(truths):
        image, cell, box, target = assign(logits.detach().sigmoid(), boxes.detach(), points, owners, truths)
        targets[image, cell, truths[box, 0].long()] = target
        total = max(float(target.sum()), 1.0)
        box_loss = ((1 - overlaps(boxes[image, cell], truths[box, 1:], complete=True)) * target).sum() / total
        near = (points[cell] - truths[box, 1:3]) / strides[cell]
        far = (truths[box, 3:5] - points[cell]) / strides[cell]
        wanted = torch.cat([near, far], 1)
        distance_loss = (F.smooth_l1_loss(distances[image, cell], wanted, reduction="none").mean(1) * target).sum() / total
    score_loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / total
    return {
        "score": score_loss * WEIGHTS["score"],
        "box": box_loss * WEIGHTS["box"],
        "distance": distance_loss * WEIGHTS["distance"],
    }
