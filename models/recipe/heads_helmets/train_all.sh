#!/bin/sh
# Trains, measures and exports all networks, one after the other; run again, it goes on where it was.
#
#     train_all.sh DATA WORK [EPOCHS]      # DATA: images/ and annotations.json; WORK: checkpoints, logs, results
#
# PYTHON names the interpreter with the packages of requirements.txt, TRAIN_OPTIONS further options of train.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$1 work=$2 epochs=${3:-100}
python=${PYTHON:-python3}
for network in small large yolov8n; do
    "$python" -u "$here/train.py" --data "$data" --work "$work" --network $network --epochs "$epochs" ${TRAIN_OPTIONS:-}
    "$python" "$here/evaluate.py" "$work/$network.pt" --data "$data" --json "$work/$network.json" | tee "$work/$network.txt"
    if [ $network != yolov8n ]; then
        "$python" "$here/export.py" "$work/$network.pt" --data "$data" --out "$work/heads_helmets_$network.onnx"
        "$python" "$here/evaluate.py" "$work/heads_helmets_$network.onnx" --data "$data"
    fi
done
