#!/usr/bin/env bash
# What only a GPU can show, in less than 8 minutes and without a network: benchmarks/gpu.sh
#
# The tests that need CUDA, short runs of the default job with each switch, a resume on the other device, and three
# benchmarks. Each part has a time limit; its output goes to $OUT, or to a temporary folder. It says which parts it
# skipped, and why. Exit status: 1 if a part failed. With --cpu, what can run without a GPU is run, to try the script.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OUT=${OUT:-$(mktemp -d)}
RUNS=$(mktemp -d)
trap 'rm -rf "$RUNS"' EXIT
SECONDS_IN_ALL=460 CPU=0 FACTOR=1
[ "${1:-}" = --cpu ] && SECONDS_IN_ALL=4600 CPU=1 FACTOR=10
export PYTHONPATH=$PWD
status=0

GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())' 2> "$OUT/torch.log" || echo none)
if [ "$GPUS" = none ]; then
    echo "torch cannot be imported by $PYTHON: $(tail -n 1 "$OUT/torch.log")"
    exit 1
fi

# all parts need these packages: say which are not there, instead of failing in each
MISSING=$("$PYTHON" -c '
import importlib.metadata, re
for line in open("requirements.txt"):
    name = re.match(r"[\w.-]*", line)[0]
    try:
        name and importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)')
if [ -n "$MISSING" ]; then
    echo "of requirements.txt, $PYTHON lacks" $MISSING
    exit 1
fi

# part NAME SECONDS NEEDS COMMAND...: run it, at most so long. NEEDS: packages, and "gpu", "gpus" or "compiler", in one
# word by commas
part() {
    local name=$1 limit=$(($2 * FACTOR)) needs=$3 missing='' left=$((SECONDS_IN_ALL - SECONDS))
    shift 3
    [ "$GPUS" -ge 1 ] || [ "$CPU" = 1 ] || missing='no CUDA'
    for need in ${needs//,/ }; do
        [ -z "$missing" ] || break
        case $need in
            gpu) [ "$GPUS" -ge 1 ] || missing='no CUDA' ;;
            compiler) command -v "${CXX:-c++}" > "$OUT/import.log" || missing='no C++ compiler' ;;
            gpus) [ "$GPUS" -ge 2 ] || missing="$GPUS CUDA devices, and it needs 2" ;;
            *) "$PYTHON" -c "import $need" 2> "$OUT/import.log" || missing="$need: $(tail -n 1 "$OUT/import.log")" ;;
        esac
    done
    [ -n "$missing" ] || [ "$left" -ge 15 ] || missing='no time left'
    if [ -n "$missing" ]; then
        printf '%-28s skipped: %s\n' "$name" "$missing"
        return
    fi
    local started=$SECONDS code=0
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" > "$OUT/$name.log" 2>&1 || code=$?
    case $code in
        0) printf '%-28s ok, %d s\n' "$name" "$((SECONDS - started))" ;;
        124 | 137) printf '%-28s failed: longer than its time limit\n' "$name" && status=1 ;;
        *) printf '%-28s failed: %s\n' "$name" "$(tail -n 1 "$OUT/$name.log")" && status=1 ;;
    esac
    grep -hE '^\||^\{|val_accuracy|^ *accuracy:|^[0-9]+ (passed|failed)' "$OUT/$name.log" | tail -n 6
}

# train NAME SECONDS NEEDS FLAGS...: a short run of the default job
train() {
    local name=$1 limit=$2 needs=$3
    shift 3
    part "$name" "$limit" "$needs" "$PYTHON" train.py -c config.json --set trainer.epochs=1 \
        --set trainer.save_dir="$RUNS/$name" --set trainer.report=false "${SHORT[@]}" "$@"
}

SHORT=()
[ "$GPUS" -ge 1 ] || SHORT=(--set trainer.limit_train_batches=20 --set trainer.limit_valid_batches=2)
first=$([ "$GPUS" -ge 1 ] && echo cuda || echo cpu)

echo "$("$PYTHON" -c 'import torch; print("torch", torch.__version__)'), CUDA devices: $GPUS; output in $OUT"
part tests 100 gpu,pytest,hypothesis "$PYTHON" -m pytest -o addopts= -q tests/base/training/test_cuda.py
train plain 60 '' -d "$first"
train bf16 60 '' -d "$first" --set trainer.precision=bf16
train tf32 60 '' -d "$first" --set trainer.precision=tf32
train fp16 60 gpu -d "$first" --set trainer.precision=fp16
train device_resident 60 '' -d "$first" --set data_loader.args.device_resident=true --set data_loader.args.augment=true
train on_cpu 60 '' -d cpu --set trainer.limit_train_batches=20 --set trainer.limit_valid_batches=2
run_of() { echo "$RUNS/$1"/models/Mnist_LeNet/*; }
part resume_of_cpu 60 '' "$PYTHON" train.py -r "$(run_of on_cpu)" --set trainer.epochs=2 -d "$first"
part resume_on_cpu 60 '' "$PYTHON" train.py -r "$(run_of plain)" --set trainer.epochs=2 --set trainer.limit_train_batches=20 -d cpu
part test 40 '' "$PYTHON" test.py -r "$(run_of plain)" -d "$first"
part predict 40 '' "$PYTHON" predict.py -r "$(run_of plain)" --split test -d "$first"
part find_batch_size 60 gpu "$PYTHON" train.py -c config.json --find-batch-size -d "$first"
part compile 120 gpu,triton,compiler "$PYTHON" train.py -c config.json --set trainer.epochs=1 --set trainer.compile=true \
    --set trainer.save_dir="$RUNS/compile" -d "$first"
part two_gpus 90 gpus "$PYTHON" train.py -c config.json --set trainer.epochs=1 --set n_gpu=2 \
    --set trainer.save_dir="$RUNS/two"
for metrics in 0 2 10; do
    part "overhead_$metrics" 40 gpu "$PYTHON" -c '
import json, sys
sys.path.insert(0, "benchmarks")
import overhead
overhead.EPOCHS = 11
print("\n" + json.dumps(overhead.worker("ours", int(sys.argv[1]), 0)))' "$metrics"
done
part epoch 110 gpu,tensorboard "$PYTHON" -c '
import sys
sys.path.insert(0, "benchmarks")
import epoch
epoch.EPOCHS, epoch.SAME_WEIGHTS = 4, ()
epoch.main({("ours", "hand_written"): 2})'
compiled=$([ "$GPUS" -ge 1 ] && echo ,triton,compiler)
part resnet 130 "torchvision$compiled" "$PYTHON" benchmarks/resnet.py
exit $status
