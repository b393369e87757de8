#!/usr/bin/env python3
"""Writes the node cases of the ONNX standard to a folder, for tests/conformance.rs.

Needs: pip install "onnx[reference]==1.23.2"
Use:   onnx_cases.py FOLDER
Layout: NAME/model.onnx, NAME/test_data_set_0/{input,output}_N.pb. Only cases whose values are all plain tensors.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_node_model_tests


def main(folder: Path) -> None:
    np.random.seed(0)
    written = 0
    for case in load_node_model_tests():
        graph = case.model.graph
        infos = [*graph.input, *graph.output]
        if not case.data_sets or any(not info.type.HasField("tensor_type") for info in infos):
            continue
        inputs, outputs = case.data_sets[0]
        data = folder / case.name / "test_data_set_0"
        data.mkdir(parents=True, exist_ok=True)
        (data.parent / "model.onnx").write_bytes(case.model.SerializeToString())
        for kind, values, named in (("input", inputs, graph.input), ("output", outputs, graph.output)):
            for i, (value, info) in enumerate(zip(values, named)):
                if not isinstance(value, TensorProto):
                    value = numpy_helper.from_array(np.asarray(value), info.name)
                (data / f"{kind}_{i}.pb").write_bytes(value.SerializeToString())
        written += 1
    print(f"{written} cases in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
