"""Renders scenes of flat shapes (circle, square, triangle) on textured backgrounds.

    python make_pictures.py --out DIR --count 200 --seed 7      # images/ and YOLO labels/
    python make_pictures.py --scene ../../shapes_scene.png      # the sample picture

Everything is drawn here; no picture comes from elsewhere.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

NAMES = ["circle", "square", "triangle"]

# Pictures are drawn at this multiple of their size and then scaled down, which smooths the edges.
OVERSAMPLING = 2


def outline(kind, centre, radius, angle):
    """Corners of a shape; a circle is a polygon of 64. `radius` is that of the circle around it."""
    corners = {"circle": 64, "square": 4, "triangle": 3}[kind]
    turns = angle + np.arange(corners) * (2 * math.pi / corners)
    return np.stack([centre[0] + radius * np.cos(turns), centre[1] + radius * np.sin(turns)], axis=1)


def smooth_noise(rng, width, height, cells):
    """Noise in 0..1 that varies over about `cells` patches per side."""
    grid = (rng.random((cells, cells)) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.BICUBIC), np.float32) / 255


def background(rng, width, height):
    """A gradient between two muted colours under noise of several sizes, with a few thin lines."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (xs * math.cos(angle) + ys * math.sin(angle)) / math.hypot(width, height)
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    if rng.random() < 0.7:
        second = np.clip(first + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)
    field = first + (second - first) * ramp[..., None]
    for cells in (3, 9, 31):
        strength = rng.uniform(0, 40)
        field += (smooth_noise(rng, width, height, cells) - 0.5)[..., None] * strength
    picture = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 6)):
        ends = rng.uniform(-0.2, 1.2, (2, 2)) * [width, height]
        colour = tuple(int(c) for c in rng.uniform(0, 255, 3))
        draw.line([tuple(p) for p in ends], fill=colour, width=max(1, int(min(width, height) * rng.uniform(0.002, 0.012))))
    return picture


def overlap(a, b):
    """Share of the smaller of two boxes that the other covers."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / smaller


def render(rng, width, height, count=None, softness=1.0):
    """One scene. Returns the picture and its boxes `[class, x0, y0, x1, y1]` in pixels.

    `softness` scales blur and noise.
    """
    big = (width * OVERSAMPLING, height * OVERSAMPLING)
    picture = background(rng, *big)
    pixels = np.asarray(picture, np.float32)
    boxes = []
    count = int(rng.integers(0, 10)) if count is None else count
    for _ in range(count * 12):
        if len(boxes) == count:
            break
        kind = int(rng.integers(0, 3))
        shortest = min(big)
        # As many small as large shapes: uniform in the logarithm.
        radius = shortest * math.exp(rng.uniform(math.log(0.055), math.log(0.27)))
        centre = rng.uniform(0.6 * radius, np.array(big) - 0.6 * radius)
        corners = outline(NAMES[kind], centre, radius, rng.uniform(0, 2 * math.pi))
        box = [*np.clip(corners.min(0), 0, big), *np.clip(corners.max(0), 0, big)]
        if any(overlap(box, other[1:]) > 0.18 for other in boxes):
            continue
        beneath = pixels[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1].mean((0, 1))
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - beneath).sum() < 110:
            continue
        draw_shape(rng, picture, corners, colour)
        boxes.append([kind, *box])
    picture = picture.resize((width, height), Image.BOX)
    if rng.random() < 0.3 * softness:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    grain = rng.normal(0, rng.uniform(0, 8) * softness, (height, width, 3))
    picture = Image.fromarray(np.clip(np.asarray(picture, np.float32) + grain, 0, 255).astype(np.uint8))
    return picture, np.array(boxes, np.float32).reshape(-1, 5) / [1, *[OVERSAMPLING] * 4]


def draw_shape(rng, picture, corners, colour):
    """A filled polygon with a light gradient and, at times, a rim."""
    low, high = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 3
    size = tuple(int(n) for n in high - low)
    mask = Image.new("L", size)
    local = [tuple(p - low) for p in corners]
    ImageDraw.Draw(mask).polygon(local, fill=255)
    ramp = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None, None] * rng.uniform(-25, 25)
    fill = np.broadcast_to(colour + ramp, (size[1], size[0], 3))
    patch = Image.fromarray(np.clip(fill, 0, 255).astype(np.uint8))
    if rng.random() < 0.35:
        rim = tuple(int(c) for c in np.clip(colour + rng.choice([-70, 70]), 0, 255))
        width = max(1, int(0.04 * max(size)))
        ImageDraw.Draw(patch).line([*local, local[0], local[1]], fill=rim, width=2 * width, joint="curve")
    picture.paste(patch, (int(low[0]), int(low[1])), mask)


def letterboxed(picture, boxes, side):
    """Fits a picture into a square, centred on grey 114, and its boxes with it."""
    scale = side / max(picture.size)
    width, height = (round(n * scale) for n in picture.size)
    left, top = (side - width) // 2, (side - height) // 2
    square = Image.new("RGB", (side, side), (114, 114, 114))
    square.paste(picture.resize((width, height), Image.BILINEAR), (left, top))
    moved = boxes.copy()
    moved[:, 1:] = boxes[:, 1:] * scale + [left, top, left, top]
    return square, moved


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for images/ and labels/")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--scene", type=Path, help="write the sample picture here")
    options = parser.parse_args()
    if options.scene:
        picture, boxes = render(np.random.default_rng(options.seed), 640, 480, count=8, softness=0.3)
        picture.save(options.scene, optimize=True)
        for kind, *box in boxes:
            print(NAMES[int(kind)], [round(float(v), 1) for v in box])
    if options.out:
        for folder in ("images", "labels"):
            (options.out / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(options.seed)
        for i in range(options.count):
            width, height = [(640, 480), (480, 640), (512, 512)][i % 3]
            picture, boxes = render(rng, width, height)
            picture.save(options.out / "images" / f"{i:05}.png")
            lines = [
                f"{int(k)} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
                f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
                for k, x0, y0, x1, y1 in boxes
            ]
            (options.out / "labels" / f"{i:05}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
