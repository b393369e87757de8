"""Average precision as COCO defines it, of a checkpoint or an ONNX file on a part of the photos.

    python evaluate.py --data DIR small.pt                      # or small.onnx, which ONNX Runtime runs
    python evaluate.py --data DIR small.pt --part validation --sheets DIR2   # contact sheets, worst photos first

Prints AP50 and AP50:95 per class, and what became of the labelled heads and helmets at one score.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou, nms

import augment
import prepare

SCORE = 0.001
OVERLAP = 0.45
MOST = 300
MOST_PER_CLASS = 100


def detections(boxes, scores, overlap=OVERLAP):
    """Class, score, corners `[n, 6]` of one picture from all cells: the best class of each, then suppression."""
    best, classes = scores.max(dim=1)
    kept = best >= SCORE
    boxes, best, classes = boxes[kept], best[kept], classes[kept]
    # Boxes of different classes are moved apart, so that one call serves all.
    apart = boxes + classes[:, None] * 1e4
    order = nms(apart, best, overlap)[:MOST]
    return torch.cat([classes[order, None].float(), best[order, None], boxes[order]], 1).numpy()


def run(predict, photos, input_px, batch=8):
    """Detections of each photo in its own pixels. `predict` maps `[n, 3, px, px]` to boxes and scores."""
    results = []
    for start in range(0, len(photos), batch):
        fitted = [augment.letterboxed(picture, input_px) for picture, _ in photos[start : start + batch]]
        pixels = np.stack([f[0] for f in fitted])[..., ::-1].transpose(0, 3, 1, 2)
        boxes, scores = predict(torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255)
        for k, (_, scale, offset) in enumerate(fitted):
            found = detections(boxes[k], scores[k])
            rows, cols = photos[start + k][0].shape[:2]
            found[:, 2:] = (found[:, 2:] - np.tile(offset, 2)) / np.tile(scale, 2)
            found[:, 2:] = np.clip(found[:, 2:], 0, [cols, rows, cols, rows])
            results.append(found)
    return results


def matched(found, truth, threshold):
    """Whether each detection, best first, takes a free labelled box."""
    hits = np.zeros(len(found), bool)
    if len(found) == 0 or len(truth) == 0:
        return hits
    overlap = box_iou(torch.from_numpy(found[:, 2:]).double(), torch.from_numpy(truth[:, 1:]).double()).numpy()
    free = np.ones(len(truth), bool)
    for i, row in enumerate(overlap):
        row = np.where(free, row, -1)
        best = len(row) - 1 - int(row[::-1].argmax())
        if row[best] >= threshold:
            hits[i], free[best] = True, False
    return hits


def average_precision(hits, scores, count):
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order])
    recall, precision = true / max(count, 1), true / np.arange(1, len(true) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))


def precision(results, truths, classes):
    """`[classes, 10]`: average precision at overlaps 0.50 to 0.95."""
    table = np.zeros((classes, 10))
    for c in range(classes):
        found = [r[r[:, 0] == c][:MOST_PER_CLASS] for r in results]
        truth = [t[t[:, 0] == c] for t in truths]
        scores = np.concatenate([f[:, 1] for f in found])
        for k in range(10):
            hits = np.concatenate([matched(f, t, 0.5 + 0.05 * k) for f, t in zip(found, truth)])
            table[c, k] = average_precision(hits, scores, sum(map(len, truth)))
    return table


def confusion(results, truths, classes, score):
    """Counts `[classes + 1, classes + 1]`: rows the labelled class (last: nothing), columns the detected one (last:
    missed). Boxes are paired by overlap of at least one half whatever their class, best score first."""
    counts = np.zeros((classes + 1, classes + 1), int)
    for found, truth in zip(results, truths):
        found = found[found[:, 1] >= score]
        free = np.ones(len(truth), bool)
        for row in found:
            k = -1
            if free.any():
                overlap = box_iou(torch.from_numpy(row[None, 2:]).float(), torch.from_numpy(truth[:, 1:]))[0].numpy()
                overlap = np.where(free, overlap, -1)
                k = int(overlap.argmax()) if overlap.max() >= 0.5 else -1
            counts[int(truth[k, 0]) if k >= 0 else classes, int(row[0])] += 1
            if k >= 0:
                free[k] = False
        for t in truth[free]:
            counts[int(t[0]), classes] += 1
    return counts


def best_score(results, truths):
    """The score at which precision and recall, all classes together, have the largest harmonic mean."""
    hits, scores, count = [], [], sum(map(len, truths))
    for c in {int(t) for truth in truths for t in truth[:, 0]}:
        for found, truth in zip(results, truths):
            of_class = found[found[:, 0] == c]
            hits.append(matched(of_class, truth[truth[:, 0] == c], 0.5))
            scores.append(of_class[:, 1])
    hits, scores = np.concatenate(hits), np.concatenate(scores)
    order = np.argsort(-scores)
    true = np.cumsum(hits[order])
    f1 = 2 * true / (count + np.arange(1, len(true) + 1))
    k = int(f1.argmax())
    return float(scores[order][k]), float(true[k] / (k + 1)), float(true[k] / count)


def sheets(results, photos, score, out, per_sheet=25, side=300):
    """Contact sheets, the photos with most mistakes first: labelled boxes thin white, detections in colour."""
    out.mkdir(parents=True, exist_ok=True)
    colours, drawn = [(60, 60, 255), (60, 220, 60)], []
    for found, (picture, truth) in zip(results, photos):
        found = found[found[:, 1] >= score]
        hits = sum(matched(found[found[:, 0] == c], truth[truth[:, 0] == c], 0.5).sum() for c in range(len(colours)))
        k = side / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)
        small = np.clip(255 * (small / 255.0) ** 0.7, 0, 255).astype(np.uint8)
        for box in truth:
            x0, y0, x1, y1 = (int(v * k) for v in box[1:])
            cv2.rectangle(small, (x0 - 1, y0 - 1), (x1 + 1, y1 + 1), (255, 255, 255), 1)
        for c, s, *box in found:
            x0, y0, x1, y1 = (int(v * k) for v in box)
            cv2.rectangle(small, (x0, y0), (x1, y1), colours[int(c)], 1)
            cv2.putText(small, f"{s:.2f}", (x0, y0 - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, colours[int(c)], 1)
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[:side, :side]
        drawn.append((len(found) + len(truth) - 2 * hits, canvas))
    drawn.sort(key=lambda d: -d[0])
    columns = int(per_sheet**0.5)
    for first in range(0, len(drawn), per_sheet):
        page = [d[1] for d in drawn[first : first + per_sheet]]
        page += [np.zeros_like(page[0])] * (per_sheet - len(page))
        rows = [np.hstack(page[r : r + columns]) for r in range(0, per_sheet, columns)]
        cv2.imwrite(str(out / f"sheet_{first // per_sheet:02}.jpg"), np.vstack(rows))


def predictor(path, data):
    """`predict` and the input's side of a checkpoint or an ONNX file."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]

        def predict(pixels):
            rows = [session.run(None, {entry.name: p[None].numpy()})[0] for p in pixels]
            table = torch.from_numpy(np.concatenate(rows)).float()
            centre, size = table[:, :2], table[:, 2:4]
            boxes = torch.cat([centre - size / 2, centre + size / 2], 1).transpose(1, 2)
            return boxes, table[:, 4:].transpose(1, 2)

        return predict, entry.shape[2]
    import train

    network = train.load_averaged(path, len(prepare.class_names(data)))
    return network.predict, network.input_px


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default=Path(__file__).with_name("split.csv"))
    parser.add_argument("--part", default="test")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--score", type=float, help="for the confusion [default: the best of the part]")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = prepare.class_names(args.data)
    photos = augment.load(prepare.parts(args.data, args.split)[args.part])
    truths = [boxes for _, boxes in photos]
    predict, input_px = predictor(args.model, args.data)
    with torch.no_grad():
        results = run(predict, photos, input_px)
    table = precision(results, truths, len(names))
    for name, row in zip(names, table):
        print(f"{name}: AP50 {row[0]:.4f}, AP50:95 {row.mean():.4f}")
    print(f"mean of {len(photos)} photos: AP50 {table[:, 0].mean():.4f}, AP50:95 {table.mean():.4f}")
    score, exact, recall = best_score(results, truths)
    print(f"best score {score:.3f}: precision {exact:.3f}, recall {recall:.3f}")
    score = args.score or score
    counts = confusion(results, truths, len(names), score)
    print(f"at score {score:.3f}, rows labelled, columns detected: {', '.join(names)}, missed (or: nothing there)")
    for name, row in zip([*names, "nothing"], counts):
        print(f"{name:>10} " + " ".join(f"{v:6}" for v in row))
    if args.json:
        figures = {"ap50": table[:, 0].tolist(), "ap50_95": table.mean(1).tolist(), "names": names}
        figures |= {"score": score, "precision": exact, "recall": recall, "confusion": counts.tolist()}
        args.json.write_text(json.dumps(figures))
    if args.sheets:
        sheets(results, photos, score, args.sheets)


if __name__ == "__main__":
    main()
