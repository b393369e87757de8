"""Training pictures: mosaics and single photos, scaled, mirrored, turned, relit, blurred and compressed.

All photos stay in memory as bytes (about 1 GB). Every sample has its own random numbers, from the seed, the epoch and
its place in the epoch, so that a run that was interrupted goes on as if it had not been.
"""

import cv2
import numpy as np

GREY = 114
# A photo's long side over the network's input, drawn evenly on a logarithmic scale.
ZOOM = (0.6, 1.7)
# A box that a crop cuts counts while so much of it is left.
LEFT_OVER = 0.45
SMALLEST_PX = 3.0


def load(photos):
    """`[(picture BGR, boxes [n, 5])]` from paths and boxes."""
    return [(cv2.imread(str(path)), boxes) for path, boxes in photos]


def mirrored_and_turned(rng, width, height):
    """A 2x3 map that mirrors and turns a picture by quarter turns, and the size it gives."""
    matrix, size = np.float32([[1, 0, 0], [0, 1, 0]]), (width, height)
    if rng.random() < 0.5:
        matrix = np.float32([[-1, 0, width], [0, 1, 0]])
    turns = rng.choice([0, 1, 2, 3], p=[0.76, 0.05, 0.14, 0.05])
    for _ in range(turns):
        # (x, y) becomes (height - y, x).
        matrix = np.float32([[0, -1, size[1]], [1, 0, 0]]) @ np.vstack([matrix, [0, 0, 1]]).astype(np.float32)
        size = size[::-1]
    return matrix, size


def relit(rng, picture):
    """Darker, brighter, another contrast, other colours."""
    if rng.random() < 0.6:
        kind = rng.random()
        gain = rng.uniform(0.4, 0.9) if kind < 0.3 else rng.uniform(1.1, 2.2) if kind < 0.7 else 1.0
        gamma = np.exp(rng.uniform(-0.6, 0.5))
        shift = rng.uniform(-25, 15)
        levels = np.arange(256) / 255.0
        table = np.clip(levels**gamma * gain * 255 + shift, 0, 255).astype(np.uint8)
        picture = cv2.LUT(picture, table)
    if rng.random() < 0.5:
        hue, saturation = rng.uniform(-9, 9), rng.uniform(0.4, 1.6)
        hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
        table = np.empty((1, 256, 3), np.uint8)
        ramp = np.arange(256)
        table[0, :, 0] = (ramp + hue) % 180
        table[0, :, 1] = np.clip(ramp * saturation, 0, 255)
        table[0, :, 2] = ramp
        picture = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR)
    elif rng.random() < 0.06:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return picture


def worn(rng, picture):
    """What cameras and files do: motion blur, noise, JPEG."""
    if rng.random() < 0.08:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        reach = (length - 1) / 2
        offset = np.array([np.cos(angle), np.sin(angle)]) * reach
        ends = np.round([reach - offset, reach + offset]).astype(int)
        cv2.line(kernel, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    if rng.random() < 0.08:
        noise = rng.normal(0, rng.uniform(2, 10), picture.shape[:2] + (1,))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 85))])
        picture = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return picture


def tile(rng, photo, width, height, input_px, zoom):
    """A crop of a photo of that size, and its boxes in pixels of the crop."""
    picture, boxes = photo
    rows, cols = picture.shape[:2]
    matrix, (turned_w, turned_h) = mirrored_and_turned(rng, cols, rows)
    scale = input_px / max(rows, cols) * np.exp(rng.uniform(*np.log(zoom)))
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    sx, sy = scale * stretch, scale / stretch
    room_x, room_y = width - turned_w * sx, height - turned_h * sy
    x, y = rng.uniform(min(0, room_x), max(0, room_x)), rng.uniform(min(0, room_y), max(0, room_y))
    matrix = np.float32([[sx, 0, x], [0, sy, y]]) @ np.vstack([matrix, [0, 0, 1]]).astype(np.float32)
    # Where the picture shrinks much, neighbours are averaged first.
    if scale < 0.5:
        picture = cv2.resize(picture, (cols // 2, rows // 2), interpolation=cv2.INTER_AREA)
        centred = np.float32([[cols / (cols // 2), 0, 0], [0, rows / (rows // 2), 0], [0, 0, 1]])
    else:
        centred = np.eye(3, dtype=np.float32)
    # The map is of pixel edges, OpenCV's of pixel centres.
    half = np.float32([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    pixels = (np.vstack([matrix, [0, 0, 1]]) @ centred @ half)[:2]
    pixels[:, 2] -= 0.5
    cut = cv2.warpAffine(
        picture, pixels, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )
    corners = boxes[:, [1, 2, 3, 4]].reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
    corners = corners.reshape(-1, 2, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    full = (high - low).prod(axis=1)
    low, high = np.clip(low, 0, [width, height]), np.clip(high, 0, [width, height])
    sides = high - low
    kept = (sides.min(axis=1) >= SMALLEST_PX) & (sides.prod(axis=1) >= LEFT_OVER * full)
    found = np.concatenate([boxes[:, :1], low, high], axis=1)[kept].astype(np.float32)
    return relit(rng, cut), found


def sample(rng, photos, index, side, input_px, mosaic):
    """Picture `[side, side, 3]` BGR and boxes `[n, 5]` for the photo of that index."""
    if rng.random() >= mosaic:
        zoom = ZOOM if mosaic else (0.8, 1.25)
        picture, boxes = tile(rng, photos[index], side, side, input_px, zoom)
        return worn(rng, picture), boxes
    picture = np.empty((side, side, 3), np.uint8)
    cx, cy = (int(v) for v in rng.uniform(0.3 * side, 0.7 * side, 2))
    boxes = []
    others = rng.integers(0, len(photos), 3)
    corners = [(0, 0, cx, cy), (cx, 0, side, cy), (0, cy, cx, side), (cx, cy, side, side)]
    for k, (x0, y0, x1, y1) in zip([index, *others], corners):
        part, found = tile(rng, photos[k], x1 - x0, y1 - y0, input_px, ZOOM)
        picture[y0:y1, x0:x1] = part
        boxes.append(found + np.float32([0, x0, y0, x0, y0]))
    return worn(rng, picture), np.concatenate(boxes)


def letterboxed(picture, input_px):
    """A photo in the middle of the network's input; scale and offsets (x, y) of the way there."""
    rows, cols = picture.shape[:2]
    scale = input_px / max(rows, cols)
    width, height = int(cols * scale + 0.5), int(rows * scale + 0.5)
    x, y = (input_px - width) // 2, (input_px - height) // 2
    out = np.full((input_px, input_px, 3), GREY, np.uint8)
    out[y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return out, (width / cols, height / rows), (x, y)
