#!/usr/bin/env python3
"""Exports networks without trained weights in many ways, runs them with `eyas run`, and compares with ONNX Runtime.

    python scripts/exported_networks.py export DIR                    # writes DIR/NETWORK.VARIANT.onnx, minutes to hours
    python scripts/exported_networks.py export DIR --only yolov8n     # networks whose name begins so
    python scripts/exported_networks.py compare DIR                   # writes docs/exported-networks.md

Exporting needs torch, torchvision, ultralytics, onnx, onnxscript and onnxslim; comparing needs numpy, onnx and
onnxruntime, and a built `eyas`. Weights are random. Batch-norm statistics are those of a few random pictures, slightly
moved, so that activations neither vanish nor explode; the class scores of detection heads are spread, so that there is
something to suppress. Pictures are small: what is tested is whether every operator of a file is right, not speed.

A difference is taken relative to the largest value of the reference's output. Where the order of rows depends on scores
that are nearly equal (NonMaxSuppression, TopK), the rows of the two sides are matched before they are compared.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
warnings.filterwarnings("ignore")

# Networks of Ultralytics, by YAML definition, and the variants that each is exported in.
COMMON = ["op11", "op17", "dyn"]
NMS = ["nms", "nms-dyn"]
END_TO_END = ["e2e", "e2e-op13", "e2e-dyn"]
ULTRALYTICS = {
    "yolov8n": ["op11", "op13", "op16", "op17", "op20", "dyn", "slim", "fp16", *NMS, "dynamo18", "dynamo20"],
    "yolo11n": ["op11", "op17", "op20", "dyn", "slim", "nms", "dynamo20"],
    "yolov5n": [*COMMON, "nms"],
    "yolov3-tiny": [*COMMON, "nms"],
    "yolov6n": COMMON,
    "yolov9t": ["op17", "dyn"],
    "yolo12n": ["op17", "dyn", "dynamo20"],
    "yolov10n": [*END_TO_END, "dynamo20"],
    "yolo26n": [*END_TO_END, "o2m", "nms", "dynamo20"],
    "yolov8n-seg": ["op11", "op17", "dyn", "nms", "dynamo20"],
    "yolov8n-pose": ["op11", "op17", "dyn", "nms"],
    "yolov8n-obb": ["op11", "op17", "dyn", "nms"],
    "yolov8n-cls": ["op11", "op17", "dyn", "dynamo20"],
    "rtdetr-l": ["op16", "op17", "dyn"],
}
# Networks of torchvision. Detection networks have no dynamic batch: their input is a list of pictures.
TORCHVISION = {
    "mobilenet_v2": ["op11", "op13", "op17", "op20", "dyn", "dynamo18", "dynamo20", "dynamo20-dyn"],
    "mobilenet_v3_small": ["op11", "op17", "dyn"],
    "resnet18": ["op11", "op17", "dyn", "dynamo20"],
    "shufflenet_v2_x1_0": ["op11", "op17", "dyn", "dynamo20"],
    "squeezenet1_1": ["op11", "op17", "dyn"],
    "efficientnet_b0": ["op11", "op17", "dyn", "dynamo20"],
    "convnext_tiny": ["op11", "op17", "dynamo20"],
    "vit_b_16": ["op11", "op17", "dynamo20"],
    "ssdlite320_mobilenet_v3_large": ["op11", "op17", "dyn"],
    "fasterrcnn_mobilenet_v3_large_320_fpn": ["op11", "op17", "dyn"],
}
PICTURE_PX = 128
END_TO_END_PX = 160
SIZES_PX = {"vit_b_16": 224, "yolov8n-cls": 64, "rtdetr-l": 160, "yolov10n": END_TO_END_PX, "yolo26n": END_TO_END_PX}
# What a dynamic network is run with: batch, height, width.
DYNAMIC = (2, 160, 96)
BACKENDS = ["cpu", "gpu"]
TOLERANCE = 1e-3
F16_TOLERANCE = 2e-2


# ---- export ------------------------------------------------------------------------------------------------------------


def randomise(network, pictures):
    """Random weights and statistics that keep activations in a sensible range."""
    import torch

    generator = torch.Generator().manual_seed(7)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.6, 1.4, generator=generator)
        norm.bias.data.uniform_(-0.4, 0.4, generator=generator)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for _ in range(2):
            network(pictures())
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25, generator=generator)
        shift = torch.randn(norm.running_mean.shape, generator=generator)
        norm.running_mean += 0.1 * shift * norm.running_var.sqrt()
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            module.weight.data.normal_(0, 0.05, generator=generator)
    # Class scores of anchor heads start near 0: without spread there is nothing to suppress.
    for name, module in network.named_modules():
        if type(module).__name__ in ("Detect", "Segment", "Pose", "OBB", "v10Detect", "Segment26", "Pose26", "OBB26"):
            branches = [module.cv3, getattr(module, "one2one_cv3", None)]
            for last in (branch[-1] for cv in branches if cv is not None for branch in cv):
                last.weight.data.normal_(0, 0.12, generator=generator)
                last.bias.data.normal_(-4.0, 0.5, generator=generator)
    return network


def picture(shape, seed=0):
    """A picture of coloured blobs in 0..1, [N, 3, H, W]."""
    import numpy as np

    generator = np.random.default_rng(seed)
    n, c, h, w = shape
    small = generator.random((n, c, -(-h // 8) + 1, -(-w // 8) + 1))
    rough = np.repeat(np.repeat(small, 8, axis=2), 8, axis=3)[:, :, :h, :w]
    return np.clip(0.8 * rough + 0.2 * generator.random((n, c, h, w)), 0, 1).astype(np.float32)


def ultralytics_network(name):
    import torch
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(0)
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(name + ".yaml")
    size = SIZES_PX.get(name, PICTURE_PX)
    seeds = iter(range(100))
    model.model.eval()
    randomise(model.model, lambda: torch.from_numpy(picture((4, 3, size, size), next(seeds))))
    return model, size


def export_ultralytics(name, variant, path):
    import torch

    model, size = ultralytics_network(name)
    if variant.startswith("dynamo"):
        network = model.model.float().eval()
        network = network.fuse(verbose=False)
        for parameter in network.parameters():
            parameter.requires_grad = False
        for module in network.modules():
            if hasattr(module, "export"):
                module.export, module.format = True, "onnx"
            if hasattr(module, "dynamic"):
                module.dynamic = False
        example = torch.zeros(1, 3, size, size)
        with torch.no_grad():
            network(example)
            torch.onnx.export(
                network, (example,), str(path), input_names=["images"], opset_version=int(variant[6:]), dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
        return
    options = {
        "dyn": {"dynamic": True, "opset": 17},
        "slim": {"simplify": True, "opset": 17},
        "fp16": {"quantize": 16, "opset": 17, "simplify": True},
        "nms": {"nms": True, "opset": 17, "conf": 0.05},
        "nms-dyn": {"nms": True, "dynamic": True, "opset": 17, "conf": 0.05},
        "o2m": {"end2end": False, "opset": 17},
        "e2e": {"end2end": True, "opset": 17},
        "e2e-op13": {"end2end": True, "opset": 13},
        "e2e-dyn": {"end2end": True, "opset": 17, "dynamic": True},
    }.get(variant) or {"opset": int(variant[2:])}
    if name.startswith("yolov10"):
        options = {k: v for k, v in options.items() if k != "end2end"}
    written = model.export(**{"format": "onnx", "simplify": False, "device": "cpu", "imgsz": size, **options})
    Path(written).replace(path)


def torchvision_network(name):
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    detector = getattr(torchvision.models.detection, name, None)
    if detector is None:
        network = getattr(torchvision.models, name)(weights=None).eval()
    else:
        small = {"min_size": 128, "max_size": 192, "box_score_thresh": 0.012} if name.startswith("faster") else {}
        network = detector(weights=None, weights_backbone=None, **small).eval()
    for parameter in network.parameters():
        parameter.requires_grad = False
    size = SIZES_PX.get(name, PICTURE_PX)
    if detector is not None:
        size = 320 if name.startswith("ssdlite") else 160
    seeds = iter(range(100))
    pictures = lambda: torch.from_numpy(picture((4, 3, size, size), next(seeds)))  # noqa: E731
    randomise(network, (lambda: list(pictures())) if detector is not None else pictures)
    return network, detector is not None, size


def export_torchvision(name, variant, path):
    import torch

    network, detects, size = torchvision_network(name)
    example = torch.rand(1, 3, size, size)
    arguments = ([example[0]],) if detects else (example,)
    options = {"input_names": ["input"], "dynamo": variant.startswith("dynamo")}
    if options["dynamo"]:
        options |= {"opset_version": int(variant[6:8]), "external_data": False, "verbose": False}
        if variant.endswith("-dyn"):
            any_extent = torch.export.Dim.DYNAMIC
            options["dynamic_shapes"] = ({0: any_extent, 2: any_extent, 3: any_extent},)
            arguments = (torch.rand(2, 3, size, size),)
    else:
        options["opset_version"] = 17 if variant == "dyn" else int(variant[2:])
        if variant == "dyn":
            options["dynamic_axes"] = {"input": {1: "h", 2: "w"} if detects else {0: "n", 2: "h", 3: "w"}}
        if not detects:
            options["output_names"] = ["out"]
    with torch.no_grad():
        torch.onnx.export(network, arguments, str(path), **options)


def export(args):
    folder = Path(args.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(n, v, export_ultralytics) for n, vs in ULTRALYTICS.items() for v in vs]
    jobs += [(n, v, export_torchvision) for n, vs in TORCHVISION.items() for v in vs]
    jobs = [job for job in jobs if any(job[0].startswith(p) for p in args.only or [""])]
    failures = folder / "failed.json"
    for name, variant, run in jobs:
        path = folder / f"{name}.{variant}.onnx"
        if path.exists() and not args.again:
            continue
        work = tempfile.mkdtemp(dir=folder)
        before = os.getcwd()
        os.chdir(work)
        start = time.time()
        failed = json.loads(failures.read_text()) if failures.exists() else {}
        try:
            run(name, variant, path)
            failed.pop(path.name, None)
            print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
        except Exception as error:  # noqa: BLE001 whatever an exporter throws
            failed[path.name] = f"{type(error).__name__}: {error}"[:300]
            print(f"{path.name}: FAILED {failed[path.name]}", flush=True)
        failures.write_text(json.dumps(failed, indent=1))
        os.chdir(before)
        subprocess.run(["rm", "-r", work], check=False)


# ---- compare -----------------------------------------------------------------------------------------------------------


def input_of(path):
    """Name, element type and value of the one input, and whether its shape is dynamic."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    constants = {t.name for t in model.graph.initializer}
    info = next(i for i in model.graph.input if i.name not in constants)
    declared = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
    dynamic = any(d <= 0 for d in declared)
    batch, height, width = DYNAMIC
    fill = [batch, 3, height, width] if len(declared) == 4 else [3, height, width]
    shape = [d if d > 0 else f for d, f in zip(declared, fill, strict=True)]
    x = picture([1] * (4 - len(shape)) + shape).reshape(shape)
    half = info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    stored_half = half or any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    outputs = [o.name for o in model.graph.output]
    return info.name, "float16" if half else "float32", x, dynamic, opset, outputs, stored_half


def reference(path, name, dtype, x, optimised=True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.astype(dtype)})


def error_of(got, want):
    """Largest difference over the largest value of the reference, and a remark."""
    import numpy as np

    if got.shape != want.shape:
        return float("inf"), f"shape {list(got.shape)}, expected {list(want.shape)}"
    if want.size == 0:
        return 0.0, "no rows"
    g, w = got.astype(np.float64), want.astype(np.float64)
    if np.isnan(w).any() or np.isnan(g).any():
        return float("inf"), "NaN"
    scale = max(np.abs(w).max(), 1e-9)
    error = np.abs(g - w).max() / scale
    return error, ""


def matched_error(got, want):
    """As error_of of all outputs that have one row per object, with rows matched between the sides."""
    import numpy as np

    table = lambda tensors: np.concatenate([t.reshape(t.shape[0], -1) for t in tensors], axis=1)  # noqa: E731
    g, w = table(got).astype(np.float64), table(want).astype(np.float64)
    scale = np.maximum(np.abs(w).max(axis=0), 1e-9)
    free, worst = set(range(len(g))), 0.0
    for row in w:
        rest = sorted(free)
        distance = (np.abs(g[rest] - row) / scale).max(axis=1)
        best = int(distance.argmin())
        worst = max(worst, float(distance[best]))
        free.remove(rest[best])
    return worst


def compare_outputs(got, want):
    results = [error_of(g, w) for g, w in zip(got, want, strict=True)]
    worst, remark = max(results, key=lambda r: r[0])
    if worst <= TOLERANCE or any(g.shape != w.shape for g, w in zip(got, want, strict=True)):
        return worst, remark
    # Detections: [batch, rows, values], or several outputs with one row each.
    if len(want) >= 2 and len({w.shape[0] for w in want}) == 1 and want[0].shape[0] > 1:
        return matched_error(got, want), "rows matched"
    if want[0].ndim == 3 and want[0].shape[1] <= 300 and want[0].shape[2] <= 64:
        errors = [matched_error([got[0][b]], [want[0][b]]) for b in range(len(want[0]))]
        rest = [r for r in results[1:]]
        return max([max(errors), *(r[0] for r in rest)]), "rows matched"
    return worst, remark


def moves_by_itself(path, name, dtype, x, want):
    """How far the reference moves when it does not fuse, or when its input changes by a millionth."""
    import numpy as np

    others = [reference(path, name, dtype, x, optimised=False)]
    for seed in range(3):
        sign = np.random.default_rng(seed).choice([-1, 1], x.shape)
        others.append(reference(path, name, dtype, x * (1 + 1e-6 * sign)))
    return max(compare_outputs(other, want)[0] for other in others)


def run_eyas(program, path, backend, name, x, outputs):
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "in.npy"
        np.save(file, x.astype(np.float32))
        command = [*program, "run", "-m", str(path), "--backend", backend, "--input", f"{name}={file}"]
        command += ["--output-dir", folder + "/out"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            return None, "takes more than 15 minutes"
        if done.returncode != 0:
            lines = [line.strip() for line in done.stderr.strip().splitlines()]
            message = " / ".join(line for line in lines if "WARN" not in line) or f"exit code {done.returncode}"
            return None, message.replace(str(path.parent) + "/", "").replace("|", "\\|")[:400]
        read = lambda n: np.load(Path(folder) / "out" / (n.replace("/", "_").replace("\\", "_") + ".npy"))  # noqa: E731
        return [read(n) for n in outputs], ""


def compare(args):
    """Compares what is not in the results yet; they are kept, so that a long run can go on where it stopped."""
    results = json.loads(Path(args.results).read_text()) if args.results and Path(args.results).exists() else {}
    # Small files first: a run that is cut short has seen the most networks.
    files = sorted(Path(args.folder).glob("*.onnx"), key=lambda p: (p.stat().st_size, p.name))
    files = [p for p in files if any(p.name.startswith(o) for o in args.only or [""])]
    files = [p for p in files if not args.variants or p.stem.rsplit(".", 1)[1] in args.variants.split(",")]
    for path in files:
        known = results.setdefault(path.stem, {})
        wanted = [b for b in args.backends.split(",") if b not in known or args.again]
        if not wanted:
            continue
        name, dtype, x, dynamic, opset, outputs, half = input_of(path)
        known["opset"], known["shape"] = opset, "×".join(map(str, x.shape)) if dynamic else ""
        try:
            want = reference(path, name, dtype, x)
        except Exception as error:  # noqa: BLE001
            known.update({b: ["ONNX Runtime: " + " ".join(str(error).split())[:150], False] for b in wanted})
            continue
        tolerance = F16_TOLERANCE if half else TOLERANCE
        for backend in wanted:
            got, message = run_eyas([args.eyas], path, backend, name, x, outputs)
            if got is None:
                known[backend] = [message, True]
            else:
                error, remark = compare_outputs(got, want)
                text, missed = f"{error:.1e}" + (f" ({remark})" if remark else ""), False
                if error > tolerance:
                    # Where the reference is as far from itself, the network is to blame (saturated scores, choices
                    # between nearly equal scores, ill-conditioned layers).
                    itself = moves_by_itself(path, name, dtype, x, want)
                    missed = bool(error > 2 * itself)
                    text = f"**{text}**" if missed else f"{text}; the reference itself {itself:.1e}"
                known[backend] = [text, missed]
            print(path.name, backend, known[backend][0], sep=" | ", flush=True)
        if args.results:
            Path(args.results).write_text(json.dumps(results, indent=1))
    missed = sum(known[b][1] for known in results.values() for b in BACKENDS if b in known)
    if args.output:
        write(args, results, missed)
    print(f"{len(results)} files, {missed} missed")
    return 1 if missed else 0


def write(args, results, missed):
    import onnxruntime

    failures = Path(args.folder) / "failed.json"
    failed = json.loads(failures.read_text()) if failures.exists() else {}
    version = subprocess.run([args.eyas, "--version"], capture_output=True, text=True).stdout.strip()
    counts = ", ".join(f"{sum(b in known for known in results.values())} on the {b.upper()}" for b in BACKENDS)
    text = f"""# Exported networks

Written by `scripts/exported_networks.py`; do not edit. Networks without trained weights, exported by PyTorch's two
exporters as people do it, run by eyas and by ONNX Runtime {onnxruntime.__version__}.

- {datetime.date.today()}, {version}, `python scripts/exported_networks.py compare DIR`
- {len(results)} files: {counts}; {missed} results missed {TOLERANCE} ({F16_TOLERANCE} for f16)
{"".join(f"- {note}" + chr(10) for note in args.note or [])}
Each figure is the largest difference of any output over that output's largest value. *rows matched*: the order of
detections depends on scores that are nearly equal, so rows were matched first. A message instead of a figure is what
eyas says when it loads the file; – was not run. *the reference itself*: how far ONNX Runtime moves
without its graph optimisations, or when its input changes by a millionth; shown where eyas differs by more than the
tolerance, and bold where by more than twice that. Variants: `opN` the operator set, `dyn` open batch and size with the input that it was run with,
`nms` suppression inside, `e2e` end to end, `o2m` the same network's other head, `slim` simplified.

| network | variant | exporter | opset | {' | '.join(BACKENDS)} |
|---|---|---|---|{'---|' * len(BACKENDS)}
"""
    for stem, known in sorted(results.items()):
        network, variant = stem.rsplit(".", 1)
        exporter = "torch.export" if variant.startswith("dynamo") else "TorchScript"
        cells = [network, f"{variant} {known['shape']}".strip(), exporter, str(known["opset"])]
        cells += [known[b][0] if b in known else "–" for b in BACKENDS]
        text += "| " + " | ".join(cells) + " |\n"
    if failed:
        text += "\nNot exported: the exporter itself fails.\n\n| file | its message |\n|---|---|\n"
        for name, why in sorted(failed.items()):
            text += f"| {name} | {' '.join(why.split())[:200]} |\n".replace("\\n", " ")
    Path(args.output).write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("export")
    one.add_argument("folder")
    one.add_argument("--only", action="append", help="networks whose name begins so")
    one.add_argument("--again", action="store_true", help="also what is there already")
    one.set_defaults(run=export)
    two = commands.add_parser("compare")
    two.add_argument("folder")
    two.add_argument("--only", action="append", help="files whose name begins so")
    two.add_argument("--eyas", default="target/release/eyas")
    two.add_argument("--backends", default=",".join(BACKENDS))
    two.add_argument("--variants", help="only these, e.g. op17,nms")
    two.add_argument("--results", help="a JSON file that results are kept in; what it holds is not run again")
    two.add_argument("--again", action="store_true", help="run also what the results hold")
    two.add_argument("--note", action="append", help="a line for the head of the table, e.g. which adapter it was")
    two.add_argument("--output", help="where to write the table, e.g. docs/exported-networks.md")
    two.set_defaults(run=compare)
    args = parser.parse_args()
    sys.exit(args.run(args) or 0)


if __name__ == "__main__":
    main()
