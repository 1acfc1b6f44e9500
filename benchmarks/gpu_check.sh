#!/usr/bin/env bash
# One command for a bare GPU machine: builds, tests and times what has a GPU path, and leaves logs and JSON behind.
#
#   benchmarks/gpu_check.sh [FOLDER [STEP...]]        default FOLDER: gpu_check_results
#
# Needs Python with torch, pytest and numpy, nothing else: no network, no installation (the checkout is on PYTHONPATH).
# Every step has its own time limit, so that the whole ends within nine minutes and a step that hangs does not hide
# the others. The exit status is 1 when any failed, else 2 when the time was over before the last: those can be run by
# name, and so can the steps at the end of this file that are too long for the nine minutes. What is tested or timed in
# one process is one file, so that a crash on the GPU, after which its process can do nothing there, ends no other. FOLDER
# then holds gpu_check.log with all that was said, a JSON of each benchmark and file (of one that was cut off, what it had
# measured), and the resources of the CUDA kernels.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
OUT=${1:-gpu_check_results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
: >"$OUT/gpu_check.log"
export PYTHONPATH=$PWD:$PWD/python PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MPLBACKEND=Agg
CACHE=$(mktemp -d)
trap 'rm -rf "$CACHE"' EXIT
export RPE_OPS_CACHE_DIR=${RPE_OPS_CACHE_DIR:-$CACHE} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$CACHE/triton} CUBLAS_WORKSPACE_CONFIG=:4096:8
export PATH=$PATH:/usr/local/cuda/bin
LIMIT=520
wanted=" ${*:2} "
failed=() left_out=()

# step NAME SECONDS COMMAND...: output to FOLDER/gpu_check.log, one line and the last words here.
step() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    [[ $wanted == "  " || $wanted == *" $name "* || $name == machine ]] || return
    ((limit > LIMIT - SECONDS)) && limit=$((LIMIT - SECONDS))
    if ((limit < 5)); then
        echo "left out  $name: no time left"
        left_out+=("$name")
        return
    fi
    # Interrupted, pytest still says what had failed.
    timeout --signal=INT --kill-after=10 "$limit" "$@" >"$CACHE/$name.log" 2>&1 </dev/null || status=$?
    { echo "===== $name: exit $status after $((SECONDS - start)) s" && cat "$CACHE/$name.log"; } >>"$OUT/gpu_check.log"
    rm -f "$OUT"/*.csv
    if ((status)); then
        failed+=("$name")
        echo "FAILED    $name after $((SECONDS - start)) s (exit $status, 124 is the limit of $limit s)"
        tail -n 40 "$CACHE/$name.log"
    else
        echo "ok        $name in $((SECONDS - start)) s: $(tail -n 1 "$CACHE/$name.log")"
    fi
}

# lacks PROGRAM NAME: true, with a note, where the program is not on this machine and step NAME cannot run.
lacks() {
    command -v "$1" >/dev/null && return 1
    echo "left out  $2: no $1 on this machine" | tee -a "$OUT/gpu_check.log"
}

# The machine first: a result without it is worth nothing.
step machine 100 python3 -c '
import os, torch, rpe_ops
os.system("nvidia-smi; nvcc --version")
print(rpe_ops.show_config(), flush=True)
if not torch.cuda.is_available():
    raise SystemExit("PyTorch sees no GPU on this machine")
print("GPU:", torch.cuda.get_device_name(), torch.cuda.get_device_capability())
'
((${#failed[@]})) && exit 1

# Compiles whatever native code this machine can run, and calls every backend once on every device; first what a GPU runs.
step build 150 python3 -c '
import time, torch, rpe_ops
for device in ("cuda", "cpu"):
    embedding, label = torch.randn(2000, 16, device=device), torch.arange(2000, device=device) % 7
    for backend, reason in rpe_ops.available_backends(device).items():
        if reason is not None:
            print(f"{device} {backend}: {reason}")
            continue
        start = time.perf_counter()
        leaf = embedding.clone().requires_grad_()
        rpe_ops.pairwise_loss(rpe_ops.mean_shift(leaf, kappa=10.0, backend=backend), label, backend=backend).backward()
        assert leaf.grad.isfinite().all(), backend
        print(f"{device} {backend}: {time.perf_counter() - start:.1f} s")
from rpe_ops.backends import cuda
if rpe_ops.available_backends("cuda")["cuda"] is None:
    import json, os, sys
    with open(os.path.join(sys.argv[1], "cuda_kernels_on_this_gpu.json"), "w") as file:
        json.dump({"gpu": torch.cuda.get_device_name(), "kernels": cuda.loader.load().kernel_resources()}, file, indent=1)
print("every backend that can run here ran")
' "$OUT"

# Times: first the sizes that matter most. Then what only a GPU can show, the operator tests of its backends (one process
# per file, eight at a time: most of the time goes into compiling kernels for every width there is), accuracy at other
# kappas, the largest size, and the peers that torch.compile makes.
bench() { # bench NAME SECONDS ARGUMENT...: both operators, or the file given, each in SECONDS and a process of its own
    local name=$1 limit=$2 file part files=(benchmarks/test_mean_shift.py benchmarks/test_pairwise_loss.py)
    shift 2
    [[ $1 == *.py ]] && files=("$1") && shift
    for file in "${files[@]}"; do
        part=$name
        ((${#files[@]} == 1)) || part+=-$(basename "${file/test_/}" .py)
        [[ $wanted == *" $name "* ]] && wanted+="$part "
        step "$part" "$limit" python3 -m pytest "$file" "$@" --benchmark \
            --bench-device cuda --bench-output "$OUT" --bench-name "$part" --bench-rounds 5 -q
    done
}
bench benchmark-gpu 90 --bench-points 16384 65536 --bench-dims 8 16 64
step tests-gpu 70 python3 -m pytest tests/test_cuda.py -k 'not every_width' -q
step tests-widths 120 python3 -m pytest tests/test_cuda.py -k every_width -q
# The C++ tests of csrc/cuda, which CI runs on an emulated device, on this one; then once more under NVIDIA's checkers.
programs=(mean_shift pairwise_loss connected_components workspace)
build_programs='
    gpu=$(python3 -c "import torch; print(\"%d%d\" % torch.cuda.get_device_capability())")
    cmake -S . -B "$0" -DRPE_OPS_GPU=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES="$gpu" &&
    cmake --build "$0" --parallel "$(nproc)" --target "${@/#/test_cuda_}" || exit 1;'
lacks cmake ctest || step ctest 70 bash -c "$build_programs"'
    ctest --test-dir "$0" -R cuda --output-on-failure --no-tests=error' "$CACHE/ctest" "${programs[@]}"
step tests 140 bash -c 'ls tests/test_*.py | grep -v -e packaging -e test_build -e test_cuda -e documentation |
    xargs -P 8 -I {} bash -c "python3 -m pytest {} -k \"triton or cuda\" --maxfail=20 -q; status=\$?; ((status == 5)) || exit \$status"'
bench accuracy 20 --bench-points 4096 --bench-dims 16 64 --bench-kappa 25 100
# Two widths to look for memory out of bounds, one for races: under the checkers a kernel takes up to hundreds of times as
# long.
lacks cmake sanitizer || lacks compute-sanitizer sanitizer || step sanitizer 60 bash -c "$build_programs"'
    for test in connected_components pairwise_loss mean_shift; do
        compute-sanitizer --tool memcheck --error-exitcode 1 "$0/test_cuda_$test" 16 64 || exit 1
        compute-sanitizer --tool racecheck --error-exitcode 1 "$0/test_cuda_$test" 16 || exit 1
    done' "$CACHE/ctest" "${programs[@]}"
bench benchmark-gpu-large 60 --bench-points 262144 --bench-dims 16 --bench-dtypes float16
bench benchmark-gpu-tolerance 50 benchmarks/test_tolerance.py --bench-points 65536 --bench-dims 16 --bench-dtypes float32
bench benchmark-gpu-compiled 90 --bench-points 16384 --bench-dims 64 --bench-dtypes float16 --bench-compiled

# Last, where its extra [train] is installed: the model package in float32 and in float16, trained and evaluated for a
# moment, with a JSON of each; and the tests of float16 with its gradient scaler, which need a GPU.
model() {
    [[ $wanted == "  " || $wanted == *" rpe "* ]] || return
    if ! python3 -c 'import rpe.train, rpe.evaluate' 2>>"$OUT/gpu_check.log"; then
        echo "left out  rpe: the extra [train] is not installed on this machine" | tee -a "$OUT/gpu_check.log"
        return
    fi
    step rpe 80 bash -c '
        python3 -m pytest tests/rpe/test_precision.py -q || exit 1
        for precision in no fp16; do
            python3 -m rpe train configs/synthetic.toml --output "$0/$precision" --training.precision "$precision" \
                --training.steps 60 --data.root synthetic:num_images=24,size=64,instances=8 || exit 1
            cp "$0/$precision/evaluation.json" "$1/rpe-$precision.json"
        done' "$CACHE/rpe" "$OUT"
}
model

# By name alone: the other sizes, and whole images within a tolerance.
if [[ $wanted != "  " ]]; then
    bench benchmark-gpu-dims 300 --bench-points 4096 65536 --bench-dims 32 128
    bench benchmark-gpu-kappa 300 --bench-points 65536 --bench-dims 16 64 --bench-kappa 25 100
    bench benchmark-gpu-largest 400 --bench-points 262144 --bench-dims 64 --bench-dtypes float16 float32
    bench benchmark-gpu-full-resolution 400 benchmarks/test_full_resolution.py --bench-full-resolution
fi

((${#left_out[@]})) && echo "left out: ${left_out[*]}; to run them: benchmarks/gpu_check.sh FOLDER ${left_out[*]}"
if ((${#failed[@]})); then
    echo "gpu_check: failed after ${SECONDS} s: ${failed[*]}"
    exit 1
fi
((${#left_out[@]})) && exit 2
echo "gpu_check: passed in ${SECONDS} s"
