#!/usr/bin/env bash
# Exact round trips and the comparison on an NVIDIA GPU: `gpu.sh PYTHON RESULTS [DEVICE [MODEL [SIZE]]]`, in the repository, after
#
#     cargo build --release --workspace --features edict-cli/tch --bin edict --bin edict-compare
#
# (with `--features edict-cli/cuda,edict-compare/cuda` too where CUDA's tools are: candle is left out otherwise). PYTHON has PyTorch 2.11.0 with
# CUDA and the packages of requirements.txt. RESULTS is a folder: exact.jsonl has a line for each round trip, compare.jsonl and compare-*.md have
# the tables, log what the programs said. It ends within ten minutes; what is cut off leaves what it had found.
#
# Without a GPU, `gpu.sh PYTHON RESULTS cpu tests/golden/models/tiny-sd1 64x64` tries every line of it but the making of the model.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1 results=$2 device=${3:-cuda:0} model=${4:-target/bench-models/sd15} size=${5:-512x512}
mkdir -p "$results"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
image=tests/golden/images/chelsea-451x300.png

# Runs a command for so many seconds at most, and not beyond the ten minutes, or the LIMIT in seconds.
within() {
    local limit=$1 left=$((${LIMIT:-580} - SECONDS))
    shift
    [ $left -gt $limit ] && left=$limit
    [ $left -lt 1 ] && return 124
    timeout --kill-after=5 $left "$@"
}

# The libraries of that Python, whichever libtorch the programs were built with, if they are of the same version.
torch=$("$python" -c 'import torch; assert torch.__version__.startswith("2.11.0"), torch.__version__; print(torch.__path__[0])') || exit 1
# CUDA's own, which candle asks for, lie beside it.
export LD_LIBRARY_PATH=$torch/lib:$(dirname "$torch")/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

if [ "$model" = target/bench-models/sd15 ] && [ ! -e "$model/complete" ]; then
    within 120 "$python" benches/compare/models.py sd15 "$model" || exit 1
fi

failed=0
# Does every bit come back? `invert` also asks the network each kind of question twice, and refuses one that answers in two ways.
exact() {
    within 45 target/release/edict invert --backend "$1" --device "$device" --dtype "$2" --model "$model" --size "$size" --image $image \
        --prompt "a photo of a cat" --steps 10 --verify --json --output "$scratch/$1-$2.safetensors" \
        >> "$results/exact.jsonl" 2>> "$results/log"
    local status=$?
    echo "round trip, $1, $2: exit status $status" | tee -a "$results/log"
    rm -f "$scratch/$1-$2.safetensors"
    # candle needs a build of its own for GPUs; its absence is in the log.
    [ "$1" = tch ] && [ $status -ne 0 ] && failed=1
}

compare() {
    within "$1" target/release/edict-compare --python "$python" --model "$model" --image $image --size "$size" --device "$device" --dtype "$2" \
        --steps 4 --strength 1 --rounds 5 --extrapolate 40 --json --write "$results/compare-$2.md" \
        >> "$results/compare.jsonl" 2>> "$results/log" || failed=1
    echo "comparison, $2: after $SECONDS s" | tee -a "$results/log"
}

# What matters most comes first.
exact tch f16
compare 180 f16
exact tch f32
exact tch bf16
for dtype in f16 f32 bf16; do
    exact candle $dtype
done
compare 180 f32
compare 120 bf16
exit $failed
