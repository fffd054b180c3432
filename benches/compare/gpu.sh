#!/usr/bin/env bash
# The comparison and the exact round trips on an NVIDIA GPU: `gpu.sh PYTHON RESULTS [DEVICE [MODEL [SIZE]]]`, in the repository, after
#
#     cargo build --release --workspace --features edict-cli/tch --bin edict --bin edict-compare
#
# (with `--features edict-cli/cuda,edict-compare/cuda` too where CUDA's tools are: candle is left out otherwise). PYTHON has PyTorch 2.11.0 with
# CUDA and the packages of requirements.txt; RESULTS is a folder for what is found. Every step has its own limit, in all below ten minutes.
# Without a GPU, `gpu.sh PYTHON RESULTS cpu tests/golden/models/tiny-sd1 64x64` tries every line of it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1 results=$2 device=${3:-cuda:0} model=${4:-target/bench-models/sd15} size=${5:-512x512}
mkdir -p "$results"

# The libraries of that Python, whichever libtorch the programs were built with: it is the same version.
torch=$("$python" -c 'import torch; print(torch.__path__[0])') || exit 1
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

if [ "$model" = target/bench-models/sd15 ] && [ ! -e "$model/complete" ]; then
    timeout 120 "$python" benches/compare/models.py sd15 "$model" || exit 1
fi

failed=0
# First what matters most: does every bit come back on this device?
for dtype in f16 bf16 f32; do
    for backend in tch candle; do
        timeout 35 target/release/edict invert --backend $backend --device "$device" --dtype $dtype --model "$model" --size "$size" \
            --image tests/golden/images/chelsea-451x300.png --prompt "a photo of a cat" --steps 10 --verify --json \
            --output "$results/$backend-$dtype.safetensors" > "$results/exact-$backend-$dtype.json" 2> "$results/exact-$backend-$dtype.log"
        status=$?
        echo "round trip, $backend, $dtype: exit status $status"
        # candle needs a build of its own for GPUs; its absence is in the log.
        [ $backend = tch ] && [ $status -ne 0 ] && failed=1
    done
done

for dtype in f32 f16 bf16; do
    timeout 85 target/release/edict-compare --python "$python" --model "$model" --image tests/golden/images/chelsea-451x300.png --size "$size" \
        --device "$device" --dtype $dtype --steps 4 --strength 1 --rounds 3 --extrapolate 40 --fresh --write "$results/compare-$dtype.md" || failed=1
done
exit $failed
