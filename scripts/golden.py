#!/usr/bin/env python3
"""Runs `eyas detect --json` on photos with known detections and compares.

    python scripts/golden.py --golden FILE --models DIR --photos DIR

The golden file maps `FILE.onnx` to `{"photo": PATH, "det": [[class or label, score, [x0, y0, x1, y1]], ...]}` and a
Darknet folder's name to `{"dir": FOLDER, PHOTO: [[class or label, ...], ...], ...}`. Every golden detection must be
found: same class (a number is compared with `class`, a text with `label`), IoU of at least 0.9, score within 0.03; and
nothing else above the golden threshold. Exit code 1 on a miss.

The golden pictures were resized in 8 bits, eyas resizes in floats, which moves scores in the third digit. Where two
candidates for one object differ by no more than that, suppression may keep the other one. That is accepted as a tie, and
said: the golden candidate must be there without suppression, as close as above, and the box that was kept instead must
overlap it and have a score within 0.01 of it.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import program  # noqa: E402

IOU_MIN = 0.9
SCORE_TOLERANCE = 0.03
TIE_SCORE = 0.01
# Overlap above which suppression drops one of two boxes, in all golden lists.
SUPPRESSION_IOU = 0.45
# Thresholds that the golden detections were made with.
CONF = {"fastestdet": 0.5, "yunet": 0.6, "ultraface": 0.7}
CONF_DEFAULT = 0.35
# Photos that are stored under another name than the one in the golden file.
RENAMED = {"12.jpg": "faces.jpg"}


def entries(golden, models):
    """`(model file, photo name, detections)` of every golden list."""
    for name, entry in golden.items():
        if "det" in entry:
            yield models / "onnx" / name, Path(entry["photo"]).name, entry["det"]
            continue
        cfgs = sorted((models / entry["dir"]).glob("*.cfg"))
        if len(cfgs) != 1:
            raise SystemExit(f"{models / entry['dir']}: {len(cfgs)} .cfg files, expected 1")
        for key, detections in entry.items():
            if key.endswith((".jpg", ".png")):
                yield cfgs[0], key, detections


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    return width * height / (area(a) + area(b) - width * height)


def same_class(expected, found):
    return found["label"] == expected if isinstance(expected, str) else found["class"] == expected


def nearest(kind, box, found):
    """The detection of a class that overlaps a box most, and how much."""
    rivals = [(iou(d["box"], box), i) for i, d in enumerate(found) if same_class(kind, d)]
    overlap, index = max(rivals, default=(0.0, None))
    return (None if index is None else found[index]), overlap


def compare(expected, found, conf, candidates):
    """What is wrong, and which ties there were, as texts. `candidates()` gives detections with hardly any suppression."""
    wrong, ties, left = [], [], list(found)
    for kind, score, box in expected:
        best, overlap = nearest(kind, box, left)
        if best is not None and overlap < IOU_MIN and overlap > SUPPRESSION_IOU:
            candidate, close = nearest(kind, box, candidates())
            tied = candidate is not None and abs(candidate["score"] - best["score"]) <= TIE_SCORE
            if tied and close >= IOU_MIN and iou(candidate["box"], best["box"]) > SUPPRESSION_IOU:
                ties.append(f"{kind} at {box}: a candidate of {best['score']:.3f} won against it, {candidate['score']:.3f}")
                left.remove(best)
                best, overlap = candidate, close
        if best is None or overlap < IOU_MIN:
            wrong.append(f"{kind} {score:.3f} at {box} not found (best IoU in its class {overlap:.3f})")
            continue
        if best in left:
            left.remove(best)
        if abs(best["score"] - score) > SCORE_TOLERANCE:
            wrong.append(f"{kind} at {box}: score {best['score']:.3f}, expected {score:.3f}")
    for extra in left:
        if extra["score"] > conf + SCORE_TOLERANCE:
            box = [round(v) for v in extra["box"]]
            wrong.append(f"{extra['label']} {extra['score']:.3f} at {box} is not in the golden list")
    return wrong, ties


def detect(options, model, backend, picture, conf, *more):
    api = ["--gpu-api", options.gpu_api] if options.gpu_api and backend == "gpu" else []
    # Below the golden threshold, so that a detection just above it may be found just below.
    found = program.call_json(
        options.eyas, "detect", "-m", model, "--backend", backend, *api, "--conf", f"{conf - SCORE_TOLERANCE:.2f}",
        *more, "--json", picture,
    )  # fmt: skip
    if len(found) != 1:
        raise program.Failed(f"eyas detect printed {len(found)} JSON objects for one picture")
    return found[0]["detections"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--golden", type=Path, required=True, help="golden file")
    parser.add_argument("--models", type=Path, required=True, help="folder with onnx/ and darknet/")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--backends", nargs="+", default=["cpu", "gpu"], choices=["cpu", "gpu"])
    parser.add_argument("--gpu-api", help="vulkan, metal or gles [default: eyas chooses]")
    options = parser.parse_args()
    passed = failed = 0
    for model, photo, expected in entries(json.loads(options.golden.read_text()), options.models):
        conf = next((c for part, c in CONF.items() if part in model.name), CONF_DEFAULT)
        picture = options.photos / RENAMED.get(photo, photo)
        for backend in options.backends:
            ties = []
            try:
                found = detect(options, model, backend, picture, conf)
                candidates = lambda: detect(options, model, backend, picture, conf, "--iou", "0.95")  # noqa: B023
                wrong, ties = compare(expected, found, conf, candidates)
            except program.Failed as error:
                wrong = [str(error)]
            passed, failed = passed + (not wrong), failed + bool(wrong)
            print(f"{'ok  ' if not wrong else 'MISS'} {model.name} {picture.name} {backend}: {len(expected)} expected")
            for line in wrong + [f"tie: {tie}" for tie in ties]:
                print(f"       {line}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
