#!/usr/bin/env python3
"""Compares `eyas run` with ONNX Runtime, and for Darknet files with a reference in numpy, and writes docs/agreement.md.

    python scripts/agreement.py --models DIR --photos DIR
    python scripts/agreement.py --models DIR --photos DIR --quick --output FILE     # one random input, one photo

Each network runs on three random pictures (fixed seeds) and three photos. Raw outputs are compared element by element;
where the head is known, both sides' outputs go through the same decoder (reference/decoders.py), so that the boxes and
scores differ only by what the layers differ. Exit code 1 if anything misses its tolerance.

A network in f16 that misses is compared with what f16 storage alone does to it (docs/numerics.md): ONNX Runtime with every
tensor rounded to f16 and all arithmetic in f32. Within 1.5 times that error, it passes as "f16 itself". A file quantised
to integers is chaotic: a sum that differs in its last bit rounds to another step now and then, and that spreads. Where
one misses, the measure is how far ONNX Runtime moves from itself when the input changes by a hundred-thousandth.

Needs the packages of scripts/requirements.txt. Models and photos are not part of the repository.
"""

import argparse
import datetime
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import darknet  # noqa: E402
import decoders  # noqa: E402
import program  # noqa: E402

# File (below --models) and head of each network; no head: raw outputs only. Width and height where the file leaves
# them open.
NETWORKS = {
    "yolox_nano_416": ("onnx/yolox_nano_416.onnx", "yolox"),
    "nanodet_m_320": ("onnx/nanodet_m_320.onnx", "nanodet"),
    "picodet_s_320": ("onnx/picodet_s_320.onnx", "picodet"),
    "fastestdet_352": ("onnx/fastestdet_352.onnx", "fastestdet"),
    "yunet_n_320": ("onnx/yunet_n_320.onnx", "yunet"),
    "ultraface_rfb_320": ("onnx/ultraface_rfb_320.onnx", "ultraface"),
    "mnist": ("onnx/mnist.onnx", None),
    "yolox_nano_416_fp16": ("onnx/yolox_nano_416_fp16.onnx", "yolox"),
    "fastestdet_qdq_int8": ("onnx/fastestdet_qdq_int8.onnx", "fastestdet"),
    "deimv2_atto_320": ("onnx/deimv2_atto_320_fp32deq.onnx", None),
    **{
        f"yunet_n_dynamic at {w}x{h}": ("onnx/yunet_n_dynamic.onnx", "yunet", (w, h))
        for w, h in [(320, 320), (160, 128), (640, 480), (224, 416), (96, 96)]
    },
    "yolo-fastest-1.1_coco": ("darknet/yolo-fastest-1.1_coco/yolo-fastest-1.1.cfg", "darknet"),
    "mobilenetv2-yolov3-nano_coco": (
        "darknet/mobilenetv2-yolov3-nano_coco/MobileNetV2-YOLOv3-Nano-coco.cfg",
        "darknet",
    ),
    "yoloface-500k-v2": ("darknet/yoloface-500k-v2/yoloface-500k-v2.cfg", "darknet"),
}
PHOTOS = ["dog.jpg", "bus.jpg", "faces.jpg"]
RANDOM_INPUTS = 3
RUNS = ["cpu:f32", "vulkan:f32", "vulkan:f16", "gles:f32"]
QUICK_RUNS = RUNS[:3]

# Largest differences that pass: raw output over its own maximum, boxes in pixels of the network's input, scores.
# Raw f16 outputs are judged only where no head is known: what counts of the others is decoded.
TOLERANCES = {"f32": (1e-3, 0.05, 1e-4), "f16": (2e-2, 1.0, 0.01)}
# How much worse than f16 storage alone a run may be: two roundings of the same size differ by about that.
F16_FACTOR = 1.5
# Boxes are compared where the reference's score is at least this.
BOX_SCORE = 0.25
# Scores are compared where either side's is at least this: a head that takes a square root (YuNet) makes of two
# probabilities near 0 that differ by 1e-8 two scores that differ by 1e-4, far below any threshold.
SCORE_MIN = 0.01


class OnnxReference:
    def __init__(self, path, head, size=None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.path = str(path)
        graph = onnx.load(self.path).graph
        self.quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
        if self.quantised:
            # On processors without VNNI the fused integer kernels saturate sums of two products at 16 bits, and are wrong.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        first, *others = self.session.get_inputs()
        self.input = first.name
        self.shape = [d if isinstance(d, int) else 1 for d in first.shape]
        if size:
            self.shape[2:] = size[::-1]
        # The second input of the DETR family is the size to which boxes are scaled.
        self.others = {i.name: np.array([self.shape[:1:-1]], np.int64) for i in others}
        self.half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer)
        self.names = [o.name for o in self.session.get_outputs()]
        self.head = decoders.HEADS[head] if head else None

    def run(self, x):
        inputs = {self.input: x, **self.others}
        kinds = {i.name: np.float16 for i in self.session.get_inputs() if i.type == "tensor(float16)"}
        inputs = {name: value.astype(kinds.get(name, value.dtype)) for name, value in inputs.items()}
        return dict(zip(self.names, self.session.run(None, inputs), strict=True))

    def moved(self, x):
        """The outputs for an input that differs by a hundred-thousandth."""
        noise = np.random.default_rng(1).standard_normal(x.shape)
        return self.run((x * (1 + 1e-5 * noise)).astype(np.float32))

    def stored_in_f16(self):
        """The same network with every weight and every node's result rounded to f16."""
        model = onnx.load(self.path)
        rounded = lambda a: a.astype(np.float16).astype(np.float32)  # noqa: E731
        for weights in model.graph.initializer:
            if weights.data_type == onnx.TensorProto.FLOAT:
                weights.CopyFrom(onnx.numpy_helper.from_array(rounded(onnx.numpy_helper.to_array(weights)), weights.name))
        known = onnx.shape_inference.infer_shapes(model).graph.value_info
        floats = {v.name for v in known if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        nodes, renamed = [], {self.input: self.input + ".f32"}
        casts = [(self.input, self.input + ".f32")]
        for node in [None, *model.graph.node]:
            if node is not None:
                node.input[:] = [renamed.get(name, name) for name in node.input]
                nodes.append(node)
                casts = [(name, name + ".f32") for name in node.output if name in floats]
            for name, back in casts:
                half = name + ".f16"
                nodes.append(onnx.helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16))
                nodes.append(onnx.helper.make_node("Cast", [half], [back], to=onnx.TensorProto.FLOAT))
                renamed[name] = back
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        copy = object.__new__(OnnxReference)
        copy.__dict__.update(self.__dict__)
        copy.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return copy

    def decode(self, outputs):
        boxes, scores, _ = self.head.decode(outputs, self.shape[3], self.shape[2])
        return boxes, scores


class DarknetReference:
    half = quantised = False
    others = {}

    def __init__(self, path, head):
        self.network = darknet.Network(path, path.with_suffix(".weights"))
        self.input = "input"
        self.shape = [1, *self.network.shape]
        self.head = decoders.HEADS[head]
        self.heads = [
            {
                "anchors": anchors,
                "classes": int(keys["classes"]),
                "scale_x_y": float(keys.get("scale_x_y", 1)),
                "new_coords": keys.get("new_coords", "0") != "0",
            }
            for _, anchors, keys in self.network.heads()
        ]

    def run(self, x):
        return self.network.forward(x)

    def decode(self, outputs):
        maps = [value[0] for value in outputs.values()]
        boxes, scores, _ = decoders.darknet_yolo(maps, self.heads, self.shape[3], self.shape[2])
        return boxes, scores


def inputs_of(reference, random_inputs, photos):
    """Random pictures and photos as the network takes them, as `(name, array)`."""
    _, channels, height, width = reference.shape
    pictures = []
    for seed in range(random_inputs):
        levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        pictures.append((f"random {seed}", levels))
    for path in photos:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{path}: not a picture")
        pictures.append((path.name, picture))
    for name, picture in pictures:
        if reference.head:
            x, _ = decoders.prepare(picture, width, height, reference.head.preprocess)
        else:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            if channels == 1:
                picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
            x = np.ascontiguousarray(picture.astype(np.float32).transpose(2, 0, 1)[None])
            if reference.others:
                x /= 255
        yield name, x


def run_eyas(eyas, model, run, inputs, names, folder):
    """The outputs of one `eyas run`, in the order of `names`."""
    api, precision = run.split(":")
    backend = ["--backend", "cpu"] if api == "cpu" else ["--backend", "gpu", "--gpu-api", api]
    given = []
    for i, (name, value) in enumerate(inputs.items()):
        np.save(folder / f"{i}.npy", value)
        given += ["--input", f"{name}={folder / f'{i}.npy'}"]
    program.call(eyas, "run", "-m", model, *given, "--output-dir", folder / "out", *backend, "--precision", precision)
    outputs = {}
    for name in names:
        path = folder / "out" / (name.replace("/", "_") + ".npy")
        if not path.exists():
            raise program.Failed(f"eyas run wrote no {path.name}")
        outputs[name] = np.load(path)
        path.unlink()
    return outputs


def in_order_of(ours, expected):
    """Rows of detections in the order in which the reference has them: it depends on scores that are nearly equal."""
    rows = lambda outputs: np.concatenate([v.reshape(len(v), -1).astype(np.float64) for v in outputs.values()], axis=1)  # noqa: E731
    mine, theirs = rows(ours), rows(expected)
    if mine.shape != theirs.shape:
        return ours
    scale = np.maximum(np.abs(theirs).max(axis=0), 1e-30)
    free, order = list(range(len(mine))), []
    for row in theirs:
        order.append(free.pop(int((np.abs(mine[free] - row) / scale).max(axis=1).argmin())))
    return {name: value[order] for name, value in ours.items()}


class Worst:
    """Largest differences of one network in one run."""

    def __init__(self):
        self.absolute = self.relative = self.score = 0.0
        self.box_px, self.boxes = None, 0
        self.error = None
        # What f16 storage alone does, or the smallest of changes, where the tolerances were missed.
        self.itself, self.what = None, ""

    def outputs(self, ours, expected):
        for name, value in expected.items():
            if ours[name].shape != value.shape:
                raise program.Failed(f"{name} has the shape {ours[name].shape}, not {value.shape}")
            if value.size == 0:
                continue
            difference = np.abs(ours[name].astype(np.float64) - value).max()
            # A NaN compares false with everything; make it the largest value instead.
            difference = float(difference) if np.isfinite(difference) else np.inf
            self.absolute = max(self.absolute, difference)
            self.relative = max(self.relative, difference / max(float(np.abs(value).max()), 1e-30))

    def decoded(self, ours, expected):
        (our_boxes, our_scores), (boxes, scores) = ours, expected
        # A NaN is not at least anything: keep it in.
        seen = ~(np.maximum(our_scores, scores) < SCORE_MIN)
        difference = np.abs(our_scores - scores)[seen].max(initial=0)
        self.score = max(self.score, float(difference) if np.isfinite(difference) else np.inf)
        found = scores.max(1) >= BOX_SCORE
        if found.any():
            difference = np.abs(our_boxes[found] - boxes[found]).max()
            self.box_px = max(self.box_px or 0.0, float(difference) if np.isfinite(difference) else np.inf)
            self.boxes += int(found.sum())

    def passes(self, precision, has_head):
        if self.error:
            return False
        relative, box_px, score = TOLERANCES[precision]
        if self.itself:
            relative = max(relative, F16_FACTOR * self.itself.relative)
            box_px = max(box_px, F16_FACTOR * (self.itself.box_px or 0.0))
            score = max(score, F16_FACTOR * self.itself.score)
        if (precision == "f32" or not has_head) and not self.relative <= relative:
            return False
        return self.score <= score and (self.box_px or 0.0) <= box_px


def compare(eyas, model, head, size, runs, random_inputs, photos, name):
    """`{run: Worst}` of one network, and the precision that each is judged by."""
    reference = DarknetReference(model, head) if model.suffix == ".cfg" else OnnxReference(model, head, size)
    judged = {run: "f16" if reference.half else run.split(":")[1] for run in runs}
    found = {run: Worst() for run in runs}
    for input_name, x in inputs_of(reference, random_inputs, photos):
        expected = reference.run(x)
        decoded = reference.decode(expected) if head else None
        for run, worst in found.items():
            if worst.error:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    inputs = {reference.input: x, **reference.others}
                    ours = run_eyas(eyas, model, run, inputs, list(expected), Path(folder))
                    worst.outputs(in_order_of(ours, expected) if reference.others else ours, expected)
                    if head:
                        worst.decoded(reference.decode(ours), decoded)
                except program.Failed as error:
                    worst.error = str(error)
                    print(f"{name}, {run}, {input_name}: {error}", file=sys.stderr)
    missed = [
        w
        for run, w in found.items()
        if (run.endswith(":f16") or reference.quantised) and not w.error and not w.passes(judged[run], head)
    ]
    if missed and isinstance(reference, OnnxReference):
        rounded, alone = None if reference.quantised else reference.stored_in_f16(), Worst()
        for _, x in inputs_of(reference, random_inputs, photos):
            expected, ours = reference.run(x), rounded.run(x) if rounded else reference.moved(x)
            alone.outputs(ours, expected)
            if head:
                alone.decoded(reference.decode(ours), reference.decode(expected))
        for worst in missed:
            worst.itself, worst.what = alone, "the file" if reference.quantised else "f16"
    return found, judged


def adapters(eyas, runs, model):
    """What runs each backend, as `eyas bench` names it."""
    lines = []
    for api in dict.fromkeys(run.split(":")[0] for run in runs):
        backend = ["--backend", "cpu"] if api == "cpu" else ["--backend", "gpu", "--gpu-api", api]
        try:
            adapter = program.call_json(eyas, "bench", "-m", model, *backend, "--json")[0]["adapter"]
        except (program.Failed, IndexError, KeyError) as error:
            adapter = f"unknown ({error})"
        lines.append(f"- {api}: {adapter}")
    return lines


def row(name, run, worst, has_head, precision):
    relative, box_px, score = TOLERANCES[precision]
    verdict = "pass" if worst.passes(precision, has_head) else "**miss**"
    if worst.itself:
        alone = worst.itself
        verdict += f"; {worst.what} itself: {alone.relative:.1e}, {alone.box_px or 0:.2g} px, {alone.score:.1e}"
    if worst.error:
        return f"| {name} | {run} | – | – | – | – | – | {verdict}: did not run |"
    beside = lambda value, limit, form: f"{value:{form}} {'≤' if value <= limit else '>'} {limit:g}"  # noqa: E731
    boxes = "–" if worst.box_px is None else beside(worst.box_px, box_px, ".2g")
    scores = beside(worst.score, score, ".1e") if has_head else "–"
    judged = precision == "f32" or not has_head
    over_maximum = beside(worst.relative, relative, ".1e") if judged else f"{worst.relative:.1e}"
    return (
        f"| {name} | {run} | {worst.absolute:.1e} | {over_maximum} | {boxes} | {worst.boxes or '–'} "
        f"| {scores} | {verdict} |"
    )


def page(rows, facts, random_inputs, photos):
    return "\n".join(
        [
            "# Agreement with reference implementations",
            "",
            "Written by `scripts/agreement.py`; do not edit. ONNX networks are compared with ONNX Runtime in f32, Darknet",
            "networks with `scripts/reference/darknet.py` in f64, which itself agrees with OpenCV's dnn module.",
            "",
            *facts,
            "",
            f"Each row is the worst of {random_inputs} random inputs and {photos} photos, with its tolerance where it is",
            "judged: the largest absolute difference of an output; the same over the output's largest value; the largest",
            f"difference of a decoded box's side in pixels of the network's input, where the reference's score is at least {BOX_SCORE};",
            f"how many boxes that were; the largest difference of a decoded score of at least {SCORE_MIN} on either side.",
            f"Where f16 misses, up to {F16_FACTOR} times the error of f16 storage itself passes; see `docs/numerics.md`. A file",
            "stored in f16 is judged as f16. One quantised to integers rounds to another step wherever a sum differs in its",
            f"last bit, and that spreads: where it misses, up to {F16_FACTOR} times what ONNX Runtime itself differs by when",
            "the input changes by a hundred-thousandth passes (*the file itself*).",
            "",
            "| network | backend | difference | over maximum | box, px | boxes | score | |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--models", type=Path, required=True, help="folder with onnx/ and darknet/")
    parser.add_argument("--photos", type=Path, required=True, help=f"folder with {', '.join(PHOTOS)}")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="names, or .onnx files with no head")
    parser.add_argument("--runs", nargs="+", help=f"BACKEND:PRECISION [{' '.join(RUNS)}]")
    parser.add_argument("--quick", action="store_true", help="one random input and one photo; no gles unless in --runs")
    parser.add_argument("--output", default=str(program.REPOSITORY / "docs/agreement.md"), help="the page; - for stdout")
    options = parser.parse_args()
    options.runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    random_inputs, photo_names = (1, PHOTOS[:1]) if options.quick else (RANDOM_INPUTS, PHOTOS)
    for run in options.runs:
        api, _, precision = run.partition(":")
        if api not in ("cpu", "vulkan", "gles", "metal") or precision not in TOLERANCES:
            parser.error(f"--runs {run}: BACKEND is cpu, vulkan, gles or metal; PRECISION is f32 or f16")
    photos = [options.photos / name for name in photo_names]
    rows, misses, smallest = [], 0, None
    for name in options.networks:
        file, head, *size = NETWORKS.get(name, (name if name.endswith(".onnx") else f"onnx/{name}.onnx", None))
        model = options.models / file
        if not model.exists():
            parser.error(f"--networks {name}: no file {model}")
        if smallest is None or model.stat().st_size < smallest.stat().st_size:
            smallest = model
        size = size[0] if size else None
        found, judged = compare(options.eyas, model, head, size, options.runs, random_inputs, photos, name)
        for run, worst in found.items():
            rows.append(row(name, run, worst, head is not None, judged[run]))
            misses += "**miss**" in rows[-1]
            print(rows[-1], file=sys.stderr, flush=True)
    command = shlex.join(["python", "scripts/agreement.py", "--models", "DIR", "--photos", "DIR"])
    if options.quick:
        command += " --quick"
    if options.networks != list(NETWORKS):
        command += " --networks " + shlex.join(options.networks)
    if options.runs != (QUICK_RUNS if options.quick else RUNS):
        command += " --runs " + shlex.join(options.runs)
    facts = [
        f"- {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, commit {program.commit()}, `{command}`",
        f"- {program.version(options.eyas)}; ONNX Runtime {onnxruntime.__version__}, numpy {np.__version__}, "
        f"OpenCV {cv2.__version__}, Python {platform.python_version()}",
        *adapters(options.eyas, options.runs, smallest),
        f"- {len(rows)} rows, {misses} missed",
    ]
    text = page(rows, facts, random_inputs, len(photos))
    if options.output == "-":
        print(text)
    else:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        Path(options.output).write_text(text)
    print(f"{len(rows) - misses} passed, {misses} missed", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
