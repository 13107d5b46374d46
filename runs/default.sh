#!/usr/bin/env bash
# The recipe behind the bundled networks, from folders of labelled clips to .onnx files.
#
#   DATA=path/to/data OUT=runs/out bash runs/default.sh
#
# DATA/badminton holds clips, their <clip>_ball.csv and index.csv with a train and a val split (docs/guide.md); DATA/tennis,
# DATA/pickleball and DATA/baseball what runs/sports.py says. Stages: badminton at 512x288, then at 768x432 (`second`);
# that network labels the other sports' clips (those that are there); fine-tuned on everything (`third`); the mean of the
# two labels the clips once more and is fine-tuned on those (`fourth`); its mean with what it began from, 8-bit, is
# `accurate`. `fast` is the first stage fine-tuned on everything twice (`fifth`, `sixth`), `window3` a network for windows
# that come alone. Hours on one core with bf16 (PRECISION=fp32 where the CPU has none: about twice as long). Interrupted,
# run it again: training resumes. With several GPUs: LAUNCH="torchrun --nproc-per-node 4 -m rallytrace" PRECISION=auto.
set -euo pipefail
shopt -s nullglob # a folder without sports is none
HERE=$(dirname "$0")
DATA=${DATA:?set DATA to the folder that holds badminton, tennis, pickleball and baseball}
OUT=${OUT:-runs/out}
LAUNCH=${LAUNCH:-rallytrace}
PRECISION=${PRECISION:-bf16}
MOST_STEPS=${MOST_STEPS:-1000000} # of any stage, and SECONDS_EACH of the synthetic clips: for a quick trial of this script
SECONDS_EACH=${SECONDS_EACH:-24}
read -r -a EXTRA <<<"${EXTRA:-}" # further options of `train`
steps() { echo $(($1 < MOST_STEPS ? $1 : MOST_STEPS)); }
common=(--precision "$PRECISION" --cache "$OUT/cache" "${EXTRA[@]}")
badminton=(--data "$DATA/badminton")

$LAUNCH train "${badminton[@]}" --out "$OUT/first" --size 512x288 --steps $(steps 5000) "${common[@]}"
$LAUNCH train "${badminton[@]}" --out "$OUT/second" --init "$OUT/first/best" --steps $(steps 2000) "${common[@]}"
$LAUNCH train "${badminton[@]}" --out "$OUT/window3" --model rallynet_window --steps $(steps 6000) "${common[@]}"

label_sports() { # WEIGHTS FOLDER: the other sports' clips, labelled where the network is sure
  if [[ -d $2 ]]; then return; fi
  mkdir -p "$2.partial"
  python "$HERE/sports.py" "$DATA" "$2.partial" --weights "$1"
  mv "$2.partial" "$2"
}
tune() { # FOLDER OPTIONS...: on badminton, synthetic rallies and the sports of FOLDER
  local everything=("${badminton[@]}" --data "$OUT/synthetic")
  for sport in "$1"/*; do everything+=(--data "$sport"); done
  $LAUNCH train "${everything[@]}" "${@:2}" --mixup 0.2 "${common[@]}"
}

for seed in 100 101 102 103; do
  sport=$([[ $((seed % 2)) == 0 ]] && echo badminton || echo tennis)
  rallytrace synth "$OUT/synthetic/rally$seed.mp4" --sport "$sport" --seconds "$SECONDS_EACH" --seed $seed --overwrite
done
label_sports "$OUT/second/best" "$OUT/sports"
tune "$OUT/sports" --out "$OUT/third" --init "$OUT/second/best" --steps $(steps 6400) --lr 1.5e-3
tune "$OUT/sports" --out "$OUT/fifth" --init "$OUT/first/best" --size 512x288 --steps $(steps 2600) --lr 1.5e-3

python "$HERE/average.py" "$OUT/second/best" "$OUT/third/best" "$OUT/mean" --share 0.8
label_sports "$OUT/mean" "$OUT/sports2"
tune "$OUT/sports2" --out "$OUT/fourth" --init "$OUT/mean" --steps $(steps 1600) --lr 6e-4
tune "$OUT/sports2" --out "$OUT/sixth" --init "$OUT/fifth/best" --size 512x288 --steps $(steps 1600) --lr 8e-4

# Thresholds: the highest within 0.2 points of the best F1 on the train clips (runs/threshold.py DATA/badminton WEIGHTS).
python "$HERE/average.py" "$OUT/mean" "$OUT/fourth/last" "$OUT/accurate" --share 0.5 --threshold 0.45
python "$HERE/average.py" "$OUT/sixth/last" "$OUT/sixth/last" "$OUT/fast" --threshold 0.4
also=()
if [[ -d $OUT/sports/tennis ]]; then also=(--also "$OUT/sports/tennis"); fi
for name in accurate fast; do
  rallytrace export "$OUT/$name" --out "$OUT/$name.float.onnx" --overwrite
  python "$HERE/quantise.py" "$DATA/badminton" "$OUT/$name.float.onnx" "$OUT/$name.onnx" "${also[@]}"
done
rallytrace export "$OUT/window3/best" --out "$OUT/window3.onnx" --overwrite
for name in accurate fast window3; do
  rallytrace eval --weights "$OUT/$name.onnx" --data "$DATA/badminton" --split val --out "$OUT/report-$name" --overwrite
done
