#!/usr/bin/env python3
"""Average precision of `eyas eval` beside that of a reference: ONNX Runtime (OpenCV for Darknet), the decoders of
reference/decoders.py, and the metric below.

    python scripts/evaluate_reference.py --models DIR --data DIR [MODEL...]

Without MODEL: the networks for COCO's 80 classes in --models. The folder of --data has images/ and labels/ with YOLO text files. AP50 and AP50:95 as the COCO challenge defines them (Lin et al. 2014):
101-point interpolation, IoU 0.50 to 0.95 in steps of 0.05, at most 100 detections per picture and class, all areas, mean
over the classes that occur. Exit code 1 where the two differ by more than the tolerance.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import decoders  # noqa: E402
import program  # noqa: E402

COCO_NETWORKS = [
    "onnx/yolox_nano_416.onnx",
    "onnx/nanodet_m_320.onnx",
    "onnx/picodet_s_320.onnx",
    "onnx/fastestdet_352.onnx",
    "darknet/yolo-fastest-1.1_coco/yolo-fastest-1.1.cfg",
    "darknet/mobilenetv2-yolov3-nano_coco/MobileNetV2-YOLOv3-Nano-coco.cfg",
]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100


def overlaps(a, b):
    """IoU `[len(a), len(b)]` of boxes x0 y0 x1 y1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area = lambda r: np.prod(r[:, 2:] - r[:, :2], axis=1)
    union = area(a)[:, None] + area(b)[None] - shared
    return shared / np.maximum(union, 1e-12)


def average_precision(pictures, kind):
    """AP of one class at each of THRESHOLDS. `pictures`: `(boxes, scores, classes, truths [n, 5])`."""
    scores, hits, truth_count = [], [], 0
    for boxes, confidence, classes, truths in pictures:
        truth = truths[truths[:, 0] == kind, 1:]
        truth_count += len(truth)
        mine = np.flatnonzero(classes == kind)
        mine = mine[np.argsort(-confidence[mine], kind="stable")][:MOST]
        scores.append(confidence[mine])
        hit = np.zeros((len(THRESHOLDS), len(mine)), bool)
        if len(truth) and len(mine):
            table = overlaps(boxes[mine], truth)
            for t, threshold in enumerate(THRESHOLDS):
                free = np.ones(len(truth), bool)
                for d in range(len(mine)):
                    candidates = np.where(free, table[d], -1)
                    best = candidates.argmax()
                    if candidates[best] >= threshold:
                        free[best] = False
                        hit[t, d] = True
        hits.append(hit)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(hits, axis=1)[:, order]
    found = np.cumsum(hits, axis=1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / truth_count
    result = []
    for p, r in zip(precision, recall):
        at = np.searchsorted(r, RECALLS, side="left")
        result.append(np.where(at < len(p), p[np.minimum(at, len(p) - 1)], 0).mean() if len(p) else 0.0)
    return np.array(result)


def labels(path, width, height):
    """`[n, 5]` class, x0, y0, x1, y1 in pixels."""
    rows = [list(map(float, line.split()[:5])) for line in path.read_text().splitlines()] if path.exists() else []
    rows = np.array([r for r in rows if r], np.float64).reshape(-1, 5)
    kind, cx, cy, w, h = rows.T
    return np.stack(
        [kind, (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height], axis=1
    )


def reference(model, data, conf):
    network = decoders.load(str(model))
    pictures = []
    for path in sorted((data / "images").iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{path}: not a picture")
        boxes, scores, classes, _ = decoders.detect(network, picture, conf=conf)
        height, width = picture.shape[:2]
        truths = labels(data / "labels" / (path.stem + ".txt"), width, height)
        pictures.append((boxes, scores, classes, truths))
    if not pictures:
        raise SystemExit(f"{data}: no pictures in images/")
    kinds = sorted({int(kind) for *_, truths in pictures for kind in truths[:, 0]})
    table = np.array([average_precision(pictures, kind) for kind in kinds])
    return float(table[:, 0].mean()), float(table.mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("networks", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--models", type=Path, help="folder with onnx/ and darknet/")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--conf", type=float, default=0.001, help="drop detections below it [%(default)s]")
    parser.add_argument("--backend", default="cpu", help="of eyas [%(default)s]")
    parser.add_argument("--tolerance", type=float, default=0.003)
    options = parser.parse_args()
    if not options.networks:
        if not options.models:
            parser.error("give MODEL or --models")
        options.networks = [options.models / name for name in COCO_NETWORKS]
    print("| network | AP50 reference | AP50 eyas | difference | AP50:95 reference | AP50:95 eyas | difference | |")
    print("|---|---|---|---|---|---|---|---|")
    passed = failed = 0
    for model in options.networks:
        ap50, ap = reference(model, options.data, options.conf)
        try:
            ours = program.call_json(
                options.eyas, "eval", "-m", model, "--data", options.data, "--backend", options.backend,
                "--conf", options.conf, "--json", timeout_s=3000,
            )[0]  # fmt: skip
            gaps = [ours["ap50"] - ap50, ours["ap50_95"] - ap]
            good = max(map(abs, gaps)) <= options.tolerance
            middle = f"{ours['ap50']:.4f} | {gaps[0]:+.4f} | {ap:.4f} | {ours['ap50_95']:.4f} | {gaps[1]:+.4f}"
        except (program.Failed, IndexError) as error:
            print(error or "no JSON on stdout", file=sys.stderr)
            good, middle = False, f"– | – | {ap:.4f} | – | –"
        passed, failed = passed + good, failed + (not good)
        print(f"| {model.stem} | {ap50:.4f} | {middle} | {'pass' if good else '**miss**'} |", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
