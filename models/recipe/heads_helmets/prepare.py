"""Splits the photos into training, validation and test parts so that copies of a photo stay together.

    python prepare.py --data DIR --out split.csv            # DIR holds images/ and annotations.json (COCO)
    python prepare.py --data DIR --split split.csv --export test --out DIR2     # one part as a folder for `eyas eval`

The photos were published with altered copies among them: darkened, mirrored, turned by quarter turns, and turned by 45
degrees on a black square. Two photos belong to one group when

- their hashes are near: the signs of the 255 lowest frequencies of the grey, equalised picture (a discrete cosine
  transform), the smallest distance over the eight symmetries of a rectangle; a photo that was turned by 45 degrees is
  turned back first; or
- their hashes are fairly near and their local features (SIFT) agree on one rotation, scale and shift: other photos of
  the same scene.

Groups are then drawn at random into the parts until each has its share of the photos.
"""

import argparse
import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

SEED = 20261122
SHARES = {"test": 0.15, "validation": 0.10}

# Bits of 255. Unrelated photos are seldom nearer than 80, copies are nearly always nearer than 30.
SURE_BITS = 45
MAYBE_BITS = 92
FEATURE_MATCHES = 9


def turned_back(picture):
    """A photo that lies at 45 degrees on a black square, upright and without the black; any other as it is."""
    level = picture.max(axis=2)
    height, width = level.shape
    if abs(height - width) > 2:
        return picture
    side = int(0.16 * height)
    corner = np.add.outer(np.arange(side), np.arange(side)) < side
    corners = [np.rot90(level, turns)[:side, :side][corner] for turns in range(4)]
    if max((c > 14).mean() for c in corners) > 0.05:
        return picture
    big = int(1.45 * height)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 45, 1)
    turn[:, 2] += big / 2 - width / 2
    picture = cv2.warpAffine(picture, turn, (big, big))
    lit = picture.max(axis=2) > 16
    rows, cols = np.where(lit.mean(axis=1) > 0.02)[0], np.where(lit.mean(axis=0) > 0.02)[0]
    if len(rows) < 40 or len(cols) < 40:
        return picture
    return picture[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def hashes(picture):
    """Signs (-1, 1) of the low frequencies for the eight symmetries, `[8, 255]`."""
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    grey = cv2.resize(cv2.equalizeHist(grey), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    rows = []
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(grey, turns)
            view = np.ascontiguousarray(view[:, ::-1] if mirrored else view)
            low = cv2.dct(view)[:16, :16].ravel()[1:]
            rows.append(np.where(low > np.median(low), 1, -1))
    return np.array(rows, np.float32)


def distances(all_hashes):
    """Smallest number of differing bits over the symmetries, `[n, n]`."""
    plain = all_hashes[:, 0]
    nearest = np.full((len(plain), len(plain)), plain.shape[1], np.float32)
    for k in range(8):
        nearest = np.minimum(nearest, (plain.shape[1] - plain @ all_hashes[:, k].T) / 2)
    nearest = np.minimum(nearest, nearest.T)
    np.fill_diagonal(nearest, plain.shape[1])
    return nearest


class Features:
    """Local features of the photos, computed when first asked for."""

    def __init__(self, load):
        self.load, self.known = load, {}
        self.sift = cv2.SIFT_create(nfeatures=400, contrastThreshold=0.02)

    def of(self, index, mirrored):
        if (index, mirrored) not in self.known:
            grey = cv2.cvtColor(self.load(index), cv2.COLOR_BGR2GRAY)
            grey = cv2.createCLAHE(4.0, (8, 8)).apply(cv2.equalizeHist(grey))
            grey = cv2.flip(grey, 1) if mirrored else grey
            points, vectors = self.sift.detectAndCompute(grey, None)
            places = np.float32([p.pt for p in points]).reshape(-1, 2)
            self.known[index, mirrored] = places, vectors
        return self.known[index, mirrored]

    def matches(self, a, b):
        """Features of `a` and `b` (or of `b` mirrored) that agree on one rotation, scale and shift."""
        best = 0
        for mirrored in (False, True):
            (at, av), (bt, bv) = self.of(a, False), self.of(b, mirrored)
            if av is None or bv is None or min(len(av), len(bv)) < 8:
                continue
            pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(av, bv, k=2)
            good = [m for m, n in pairs if m.distance < 0.75 * n.distance]
            if len(good) < 8:
                continue
            source = at[[m.queryIdx for m in good]]
            target = bt[[m.trainIdx for m in good]]
            _, inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=4.0)
            if inliers is not None:
                # Many features at one place (a caption, a logo) do not make a scene.
                kept = source[inliers.ravel() == 1]
                best = max(best, len(np.unique(kept // 24, axis=0)))
        return best


def grouped(count, links):
    """Group number of each photo, by union of the linked pairs."""
    parent = list(range(count))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        parent[root(a)] = root(b)
    roots = [root(i) for i in range(count)]
    numbers = {r: k for k, r in enumerate(dict.fromkeys(roots))}
    return [numbers[r] for r in roots]


def find_groups(paths):
    """Group of each photo, and the pairs with (distance, matches) that local features decided."""
    load = lambda index: turned_back(cv2.imread(str(paths[index])))
    bits = distances(np.stack([hashes(load(i)) for i in range(len(paths))]))
    first, second = np.triu_indices(len(paths), 1)
    near = bits[first, second]
    sure = near <= SURE_BITS
    links = list(zip(first[sure].tolist(), second[sure].tolist()))
    groups = grouped(len(paths), links)
    features, decided = Features(load), []
    maybe = np.where((near > SURE_BITS) & (near <= MAYBE_BITS))[0]
    tried = {}
    for k in maybe[np.argsort(near[maybe])]:
        a, b = int(first[k]), int(second[k])
        # A few pairs of each two groups are enough to see whether the scenes are one.
        key = tuple(sorted((groups[a], groups[b])))
        if key[0] == key[1] or tried.get(key, 0) >= 3:
            continue
        tried[key] = tried.get(key, 0) + 1
        matches = features.matches(a, b)
        decided.append((a, b, float(near[k]), matches))
        if matches >= FEATURE_MATCHES:
            links.append((a, b))
            tried[key] = 3
    return grouped(len(paths), links), decided


def split_groups(groups):
    """Part of each group: groups in random order fill one part after the other."""
    order = np.random.default_rng(SEED).permutation(max(groups) + 1)
    sizes = np.bincount(groups)
    part_of, wanted = {}, {part: share * len(groups) for part, share in SHARES.items()}
    for group in order:
        part = next((p for p, left in wanted.items() if left >= sizes[group] / 2), "train")
        if part != "train":
            wanted[part] -= sizes[group]
        part_of[int(group)] = part
    return part_of


def read(data):
    return json.loads((Path(data) / "annotations.json").read_text())


def write_split(data, out):
    images = read(data)["images"]
    paths = [Path(data) / "images" / i["file_name"] for i in images]
    groups, decided = find_groups(paths)
    part_of = split_groups(groups)
    photos = [
        {
            "file": image["file_name"],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            "group": group,
            "part": part_of[group],
        }
        for image, path, group in zip(images, paths, groups)
    ]
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "sha256", "group", "part"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(photos)
    for part in ("train", "validation", "test"):
        of_part = [p for p in photos if p["part"] == part]
        print(f"{part}: {len(of_part)} photos, {len({p['group'] for p in of_part})} groups")
    sizes = np.bincount(groups)
    print(f"{len(sizes)} groups, {(sizes == 1).sum()} of one photo, largest {sizes.max()}")
    joined = sum(d[3] >= FEATURE_MATCHES for d in decided)
    print(f"local features compared {len(decided)} pairs and joined {joined}")
    return groups, decided


def read_split(split):
    with open(split, newline="") as file:
        return list(csv.DictReader(file))


def parts(data, split):
    """Photos of each part: `{part: [(path, boxes [n, 5] of class, x0, y0, x1, y1 in pixels)]}`."""
    data = Path(data)
    annotations = read(data)
    classes = [c["id"] for c in sorted(annotations["categories"], key=lambda c: c["id"])]
    boxes = {}
    for a in annotations["annotations"]:
        x, y, w, h = a["bbox"]
        boxes.setdefault(a["image_id"], []).append([classes.index(a["category_id"]), x, y, x + w, y + h])
    ids = {i["file_name"]: i["id"] for i in annotations["images"]}
    result = {}
    for photo in read_split(split):
        found = np.array(boxes.get(ids[photo["file"]], []), np.float32).reshape(-1, 5)
        result.setdefault(photo["part"], []).append((data / "images" / photo["file"], found))
    return result


def scenes(folder):
    """Rendered pictures with labels in the form of YOLO, as `parts` gives photos: `[(path, boxes [n, 5])]`."""
    result = []
    for path in sorted((Path(folder) / "images").iterdir()):
        height, width = cv2.imread(str(path)).shape[:2]
        label = Path(folder) / "labels" / f"{path.stem}.txt"
        rows = np.array([line.split() for line in label.read_text().splitlines()], np.float32).reshape(-1, 5)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        corners = np.concatenate([centre - half, centre + half], 1) * np.float32([width, height, width, height])
        result.append((path, np.concatenate([rows[:, :1], corners], 1)))
    return result


def class_names(data):
    return [c["name"] for c in sorted(read(data)["categories"], key=lambda c: c["id"])]


def export_part(data, split, part, out):
    """Writes a part as a folder with images/ (links) and annotations.json."""
    annotations, out = read(data), Path(out)
    chosen = {p["file"] for p in read_split(split) if p["part"] == part}
    annotations["images"] = [i for i in annotations["images"] if i["file_name"] in chosen]
    ids = {i["id"] for i in annotations["images"]}
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] in ids]
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "annotations.json").write_text(json.dumps(annotations))
    for name in chosen:
        link = out / "images" / name
        if not link.exists():
            link.symlink_to((Path(data) / "images" / name).resolve())
    print(f"{out}: {len(ids)} photos, {len(annotations['annotations'])} boxes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--split", default=Path(__file__).with_name("split.csv"))
    parser.add_argument("--export", metavar="PART")
    args = parser.parse_args()
    if args.export:
        export_part(args.data, args.split, args.export, args.out)
    else:
        write_split(args.data, args.out)


if __name__ == "__main__":
    main()
