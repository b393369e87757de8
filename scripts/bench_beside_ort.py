#!/usr/bin/env python3
"""Times `eyas bench` beside ONNX Runtime, in turns, and prints a table of medians.

    python scripts/bench_beside_ort.py --models DIR/onnx/*.onnx --threads 1 2

The two run in alternating rounds of separate processes, so that both see the same state of the machine; within a round the
order swaps each time. The ratio is ONNX Runtime's median over eyas': above 1, eyas is faster. Inputs are the same kind of
random numbers; only the network is timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
import program  # noqa: E402

# One round of ONNX Runtime, in a process of its own so that its threads are gone when eyas runs.
ORT_ROUND = """
import json, sys, time
import numpy as np, onnxruntime
model, threads, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
feeds = {
    i.name: np.random.default_rng(0).random([d if isinstance(d, int) else 1 for d in i.shape]).astype(kinds[i.type])
    for i in session.get_inputs()
}
for _ in range(3):
    session.run(None, feeds)
times = []
for _ in range(runs):
    began = time.perf_counter()
    session.run(None, feeds)
    times.append((time.perf_counter() - began) * 1e3)
print(json.dumps(times))
"""


def ort_round(model, threads, runs):
    command = [sys.executable, "-c", ORT_ROUND, str(model), str(threads), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise program.Failed(f"ONNX Runtime on {model.name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    times = json.loads(done.stdout)
    return statistics.median(times), min(times)


def eyas_round(eyas, model, threads, runs, backend):
    found = program.call_json(
        eyas, "bench", "-m", model, "--backend", backend, "--threads", threads, "--runs", runs, "--json"
    )
    if not found:
        raise program.Failed("eyas bench printed no JSON")
    return found[0]["median_ms"], found[0]["min_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program.add_option(parser)
    parser.add_argument("--models", nargs="+", type=Path, required=True)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="inferences per round [%(default)s]")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    import onnxruntime

    print(f"{program.version(options.eyas)}, commit {program.commit()}; ONNX Runtime {onnxruntime.__version__}; ", end="")
    print(f"{options.rounds} rounds of {options.runs} inferences each, in turns; median of the rounds' medians (least)")
    print("\n| network | threads | ONNX Runtime, ms | eyas, ms | ratio |\n|---|---|---|---|---|")
    failed = False
    for model in options.models:
        for threads in options.threads:
            times = {"ort": [], "eyas": []}
            try:
                for i in range(options.rounds):
                    turn = ["ort", "eyas"] if i % 2 == 0 else ["eyas", "ort"]
                    for who in turn:
                        if who == "ort":
                            times[who].append(ort_round(model, threads, options.runs))
                        else:
                            times[who].append(eyas_round(options.eyas, model, threads, options.runs, options.backend))
            except program.Failed as error:
                print(error, file=sys.stderr)
                print(f"| {model.stem} | {threads} | – | – | failed |", flush=True)
                failed = True
                continue
            median = {who: statistics.median(m for m, _ in rounds) for who, rounds in times.items()}
            least = {who: min(m for _, m in rounds) for who, rounds in times.items()}
            print(
                f"| {model.stem} | {threads} | {median['ort']:.2f} ({least['ort']:.2f}) "
                f"| {median['eyas']:.2f} ({least['eyas']:.2f}) | {median['ort'] / median['eyas']:.2f} |",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
