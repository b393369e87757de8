"""Trains a detector; goes on from the last checkpoint if it is stopped.

    python train.py --data DIR --work DIR2 --network small --epochs 200        # or large, or yolov8n (to compare with)

DIR2/NETWORK.pt is the state, DIR2/NETWORK.csv the log, DIR2/NETWORK.svg the curves. The learning rate rises over the
first two epochs, stays, and falls to a hundredth over the last quarter of the epochs, which see pictures of the full
size and no mosaics. Before it falls the state is kept as DIR2/NETWORK_steady.pt: a later run with more epochs goes on
from there. Runs on a GPU if there is one. On a busy CPU, `--processes 2` with `--torch-threads 1` beats two
threads: each process takes half of every batch, and they share their gradients.

`--scenes DIR3` mixes in pictures that eyas renders (images/, labels/ in the form of YOLO): of the samples of an epoch,
one in eight is a scene in place of a photo, and so is one in eight of the others in its mosaics. What is measured
stays photos.
"""

import argparse
import copy
import csv
import math
import os
import queue
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import distributed, nn

import augment
import evaluate
import prepare
from losses import losses
from network import SIZES, Detector, boxes_of, cells

SEED = 4711
BATCH = 16
RATE = 2e-3
DECAY = 0.02
FALL = 0.25
WARM_EPOCHS = 2
MOSAIC = 0.6
# Share of rendered scenes among the samples, with --scenes.
SCENES = 0.125
# Share of the input's side that a training picture has while the rate stays: faster, and other sizes are learned too.
SHARES = (0.6, 0.7, 0.8, 1.0)
AVERAGE = 0.9995
SAVE_EVERY_S = 180
FIELDS = ["epoch", "images", "rate", "score", "box", "distance", "ap50", "ap50_95", "seconds"]


class Ours(nn.Module):
    """A network of network.py with its losses and its boxes."""

    def __init__(self, name, classes):
        super().__init__()
        self.network = Detector(SIZES[name], classes)
        self.input_px = SIZES[name].input_px
        self.grids = {}

    def grid(self, pixels):
        key = tuple(pixels.shape[2:]), pixels.device
        if key not in self.grids:
            height, width = pixels.shape[2:]
            self.grids[key] = tuple(t.to(pixels.device) for t in cells(width, height))
        return self.grids[key]

    def losses(self, pixels, owners, truths):
        distances, logits = self.network(pixels)
        return losses(distances.float(), logits.float(), *self.grid(pixels), owners, truths)

    def predict(self, pixels):
        distances, logits = self.network(pixels)
        return boxes_of(distances, *self.grid(pixels)), logits.sigmoid()


class Yolo(nn.Module):
    """YOLOv8n from scratch, architecture and losses of the package ultralytics: only to compare with."""

    input_px = 320

    def __init__(self, name, classes):
        super().__init__()
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel

        self.network = DetectionModel(f"{name}.yaml", nc=classes, verbose=False)
        self.network.args = get_cfg()

    def losses(self, pixels, owners, truths):
        height, width = pixels.shape[2:]
        size = torch.tensor([width, height], dtype=torch.float32, device=truths.device)
        low, high = truths[:, 1:3] / size, truths[:, 3:5] / size
        batch = {"img": pixels, "batch_idx": owners.float(), "cls": truths[:, :1]}
        parts = self.network.loss(batch | {"bboxes": torch.cat([(low + high) / 2, high - low], 1)})[0]
        return dict(zip(("box", "score", "distance"), parts / len(pixels)))

    def predict(self, pixels):
        table = self.network(pixels)
        table = table[0] if isinstance(table, (tuple, list)) else table
        centre, size = table[:, :2], table[:, 2:4]
        return torch.cat([centre - size / 2, centre + size / 2], 1).transpose(1, 2), table[:, 4:].transpose(1, 2)


def build(name, classes):
    return (Ours if name in SIZES else Yolo)(name, classes)


def load_averaged(path, classes):
    """The averaged network of a checkpoint, ready to predict."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = build(state["name"], classes)
    network.load_state_dict(state["average"])
    return network.eval()


class Mixed:
    """Photos by index, with a scene drawn at random in place of some."""

    def __init__(self, rng, photos, scenes):
        self.rng, self.photos, self.scenes = rng, photos, scenes

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        if self.rng.random() < SCENES:
            return self.scenes[self.rng.integers(len(self.scenes))]
        return self.photos[index]


class Batches:
    """Batches of an epoch from a number on, made by threads in the background; of each batch, the process's part."""

    def __init__(self, photos, scenes, epoch, first, input_px, steady, threads, rank=0, processes=1):
        self.photos, self.scenes, self.epoch, self.input_px, self.steady = photos, scenes, epoch, input_px, steady
        self.rank, self.processes = rank, processes
        order = np.random.default_rng([SEED, epoch]).permutation(len(photos))
        self.batches = [order[k : k + BATCH] for k in range(0, len(order) - BATCH + 1, BATCH)]
        self.next, self.lock, self.made = first, threading.Lock(), {}
        self.room = threading.Semaphore(threads + 2)
        self.ready = queue.Queue()
        self.first = first
        for _ in range(threads):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            self.room.acquire()
            with self.lock:
                number = self.next
                self.next += 1
            if number >= len(self.batches):
                return
            try:
                self.ready.put((number, self.make(number)))
            except Exception as error:
                self.ready.put((number, error))
                return

    def make(self, number):
        rng = np.random.default_rng([SEED, self.epoch, number])
        share = rng.choice(SHARES) if self.steady else 1.0
        side = int(round(self.input_px * share / 32)) * 32
        chosen = range(self.rank, BATCH, self.processes)
        pixels = np.empty((len(chosen), 3, side, side), np.float32)
        owners, truths = [], []
        for k, place in enumerate(chosen):
            rng = np.random.default_rng([SEED, self.epoch, number, place])
            index, mosaic = self.batches[number][place], MOSAIC if self.steady else 0.0
            picture, boxes = augment.sample(rng, self.pictures(rng), index, side, self.input_px, mosaic)
            pixels[k] = picture[..., ::-1].transpose(2, 0, 1)
            owners.append(np.full(len(boxes), k))
            truths.append(boxes)
        pixels *= 1 / 255
        return pixels, np.concatenate(owners), np.concatenate(truths).astype(np.float32)

    def pictures(self, rng):
        """What a sample is made of, by index: photos, some of them replaced by scenes."""
        if not self.scenes:
            return self.photos
        return Mixed(rng, self.photos, self.scenes)

    def __iter__(self):
        for number in range(self.first, len(self.batches)):
            while number not in self.made:
                at, batch = self.ready.get()
                if isinstance(batch, Exception):
                    raise batch
                self.made[at] = batch
            batch = self.made.pop(number)
            self.room.release()
            yield number, batch


def rate_at(progress, epochs):
    """Share of the full learning rate after `progress` epochs."""
    start = epochs * (1 - FALL)
    if progress < WARM_EPOCHS:
        return max(progress / WARM_EPOCHS, 1e-3)
    if progress < start:
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - start) / (epochs - start), 1)))


def draw(log, path):
    """The log as two curves over the epochs: losses, and average precision on the validation photos."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "0"
    from matplotlib import pyplot

    rows = list(csv.DictReader(log.open()))
    epochs = [int(r["epoch"]) for r in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for part in ("score", "box", "distance"):
        left.plot(epochs, [float(r[part]) for r in rows], label=part)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    for column, label in (("ap50", "AP50"), ("ap50_95", "AP50:95")):
        measured = [(int(r["epoch"]), float(r[column])) for r in rows if r[column]]
        if measured:
            right.plot(*zip(*measured), label=label)
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


class Run:
    def __init__(self, args, rank):
        self.args, self.rank, self.work = args, rank, Path(args.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.path = self.work / f"{args.network}.pt"
        self.steady_path = self.work / f"{args.network}_steady.pt"
        self.log = self.work / f"{args.network}.csv"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        names = prepare.class_names(args.data)
        photos = prepare.parts(args.data, args.split)
        self.photos, self.checks = augment.load(photos["train"]), augment.load(photos["validation"])
        self.scenes = augment.load(prepare.scenes(args.scenes)) if args.scenes else []
        torch.manual_seed(SEED)
        self.network = build(args.network, len(names)).to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        plain = [p for p in self.network.parameters() if p.ndim == 1]
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": weights, "weight_decay": DECAY}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
        self.epoch = self.batch = self.steps = self.images = 0
        self.seconds = 0.0
        self.sums, self.rows = {}, []
        self.resume()

    def state(self):
        keys = ("epoch", "batch", "steps", "images", "seconds", "sums")
        return {"name": self.args.network, "network": self.network.state_dict(), "average": self.average.state_dict()} | {
            "optimizer": self.optimizer.state_dict(),
            "progress": {k: getattr(self, k) for k in keys},
        }

    def save(self, path):
        partial = path.with_suffix(".part")
        torch.save(self.state(), partial)
        os.replace(partial, path)

    def resume(self):
        path = self.path
        start = int(self.args.epochs * (1 - FALL))
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        # More epochs than the last run was to have: its falling part is not gone on from.
        if self.steady_path.exists():
            steady = torch.load(self.steady_path, map_location=self.device, weights_only=True)
            if steady["progress"]["epoch"] < start:
                state = steady
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["progress"].items():
            setattr(self, key, value)
        if self.log.exists():
            self.rows = [r for r in csv.DictReader(self.log.open()) if int(r["epoch"]) <= self.epoch]
        if self.rank == 0:
            print(f"going on from epoch {self.epoch}, batch {self.batch}", flush=True)

    def write_log(self):
        with self.log.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)

    def share_gradients(self):
        """Every process gets the mean of all gradients."""
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        distributed.all_reduce(flat)
        flat /= self.args.processes
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad.copy_(part.view_as(p))

    @torch.no_grad()
    def update_average(self):
        keep = AVERAGE * (1 - math.exp(-self.steps / 400))
        for (_, a), b in zip(self.average.state_dict().items(), self.network.state_dict().values()):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - keep)
            else:
                a.copy_(b)

    def measure(self):
        predict = lambda pixels: [t.cpu() for t in self.average.predict(pixels.to(self.device))]
        with torch.no_grad():
            results = evaluate.run(predict, self.checks, self.network.input_px)
        table = evaluate.precision(results, [t for _, t in self.checks], len(prepare.class_names(self.args.data)))
        return table[:, 0].mean(), table.mean()

    def train_epoch(self):
        args = self.args
        steady = self.epoch < int(args.epochs * (1 - FALL))
        if self.rank == 0 and self.epoch == int(args.epochs * (1 - FALL)) and self.batch == 0:
            self.save(self.steady_path)
        self.network.train()
        part = self.rank, args.processes
        batches = Batches(
            self.photos, self.scenes, self.epoch, self.batch, self.network.input_px, steady, args.threads, *part
        )
        began = saved = time.monotonic()
        for number, (pixels, owners, truths) in batches:
            rate = RATE * rate_at(self.epoch + number / len(batches.batches), args.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            pixels = torch.from_numpy(pixels).to(self.device, memory_format=torch.channels_last)
            parts = self.network.losses(
                pixels, torch.from_numpy(owners).to(self.device), torch.from_numpy(truths).to(self.device)
            )
            self.optimizer.zero_grad(set_to_none=True)
            sum(parts.values()).backward()
            if args.processes > 1:
                self.share_gradients()
            nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
            self.optimizer.step()
            self.steps, self.images, self.batch = self.steps + 1, self.images + BATCH, number + 1
            self.update_average()
            for key, value in parts.items():
                self.sums[key] = self.sums.get(key, 0.0) + float(value.detach())
            if self.rank == 0 and time.monotonic() - saved > SAVE_EVERY_S:
                saved = time.monotonic()
                self.seconds, began = self.seconds + saved - began, saved
                self.save(self.path)
        self.seconds += time.monotonic() - began
        means = {k: f"{v / len(batches.batches):.4f}" for k, v in self.sums.items()}
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        if self.rank != 0:
            return
        row = {"epoch": self.epoch, "images": self.images, "rate": f"{rate:.6f}", "seconds": f"{self.seconds:.0f}"} | means
        if self.epoch % args.measure_every == 0 or self.epoch >= args.epochs:
            ap50, ap = self.measure()
            row |= {"ap50": f"{ap50:.4f}", "ap50_95": f"{ap:.4f}"}
        self.save(self.path)
        self.rows.append(row)
        self.write_log()
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--network", choices=[*SIZES, "yolov8n"], required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--split", default=Path(__file__).with_name("split.csv"))
    parser.add_argument("--scenes", metavar="DIR3", help="rendered pictures to mix in, see examples/render_scenes.rs")
    parser.add_argument("--threads", type=int, default=1, help="threads that make pictures")
    parser.add_argument("--processes", type=int, default=1, help="processes that share a batch, on a CPU")
    parser.add_argument("--torch-threads", type=int, help="threads of the network [default: one per core]")
    parser.add_argument("--measure-every", type=int, default=5, metavar="EPOCHS")
    args = parser.parse_args()
    if args.processes == 1:
        work(0, args)
    else:
        for left in Path(args.work).glob(f"{args.network}.meeting.*"):
            left.unlink()
        torch.multiprocessing.spawn(work, (args,), args.processes)


def work(rank, args):
    cv2.setNumThreads(1)
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    if args.processes > 1:
        # The processes meet through a file of their own.
        meeting = f"file://{Path(args.work).resolve()}/{args.network}.meeting.{os.getppid()}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=args.processes)
    run = Run(args, rank)
    while run.epoch < args.epochs:
        run.train_epoch()
        if rank == 0:
            draw(run.log, run.work / f"{args.network}.svg")


if __name__ == "__main__":
    main()
