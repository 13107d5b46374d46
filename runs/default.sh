#!/usr/bin/env bash
# The recipe behind the bundled network, from a folder of labelled clips to an .onnx file.
#
#   DATA=path/to/badminton OUT=runs/out bash runs/default.sh
#
# DATA holds the clips, their <clip>_ball.csv and index.csv with a train and a val split (docs/guide.md). Two stages: a
# short one at 512x288, where a step sees more of the picture, then 768x432 from its weights. It took 36 and 64 minutes on
# one core with bf16 (PRECISION=fp32 where the CPU has none: about twice as long). Interrupted, run it again: it resumes.
# With several GPUs: LAUNCH="torchrun --nproc-per-node 4 -m rallytrace" PRECISION=auto.
set -euo pipefail
DATA=${DATA:?set DATA to the folder of labelled clips}
OUT=${OUT:-runs/out}
LAUNCH=${LAUNCH:-rallytrace}
PRECISION=${PRECISION:-bf16}
FIRST_STEPS=${FIRST_STEPS:-5000}
STEPS=${STEPS:-8000}
read -r -a EXTRA <<<"${EXTRA:-}" # further options of `train`, for a quick trial of this script

$LAUNCH train --data "$DATA" --out "$OUT/first" --model rallynet --size 512x288 --steps "$FIRST_STEPS" \
  --precision "$PRECISION" --cache "$OUT/cache" "${EXTRA[@]}"
$LAUNCH train --data "$DATA" --out "$OUT/second" --model rallynet --init "$OUT/first/last" --steps "$STEPS" \
  --precision "$PRECISION" --cache "$OUT/cache" "${EXTRA[@]}"
rallytrace export "$OUT/second/best" --out "$OUT/accurate.onnx" --overwrite
rallytrace eval --weights "$OUT/accurate.onnx" --data "$DATA" --split val --out "$OUT/report" --overwrite
