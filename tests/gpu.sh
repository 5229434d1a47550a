#!/usr/bin/env bash
# Runs everything that needs a GPU: build, tests, benchmarks, loading and a short training.
#
#   tests/gpu.sh [RESULT.json [STEP...]]
#
# Without steps it runs all of them, which should take about half an hour on an H100 (an estimate,
# not measured). The result file is written again after each step, so that a run that is stopped
# keeps its results. Without a GPU the script runs the steps that do not need one, and lists the
# others as left out. SECONDS_A_LINE (0.5) is the time for each line of a benchmark's table.
# Exit status: 1 if a step failed, 2 if a named step does not exist.
set -uo pipefail
cd "$(dirname "$0")/.."
result=$(realpath -m "${1:-gpu.json}")
shift $(($# > 0))
chosen=" $* "
python=${PYTHON:-.venv/bin/python}
seconds=${SECONDS_A_LINE:-0.5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/parts"

step() { # NAME COMMAND...: run the command; keep its status and the end of its output
    local name=$1 began=$SECONDS status=0
    shift
    [[ $chosen =~ ^\ *$ || $chosen == *" $name "* ]] || { leave_out "$name" "not chosen"; return; }
    echo "== $name: $*"
    "$@" 2>&1 | tee "$work/$name.log" || status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - began)) >>"$work/steps"
    write_result
}
leave_out() { # NAME REASON
    echo "== $1 left out: $2"
    printf '%s\t%s\n' "$1" "$2" >>"$work/left_out"
}
write_result() { # fails if any step failed
    "$python" - "$work" "$result" <<'PYTHON'
import json, pathlib, sys
work, result = map(pathlib.Path, sys.argv[1:])
rows = [line.split("\t") for line in (work / "steps").read_text().splitlines()]
steps = {
    name: {"status": int(status), "seconds": int(seconds),
           "end": (work / f"{name}.log").read_text(errors="replace")[-2000:]}
    for name, status, seconds in rows
}
left_out = dict(line.split("\t") for line in (work / "left_out").read_text().splitlines())
parts = {path.stem: json.loads(path.read_text()) for path in sorted((work / "parts").iterdir())}
result.write_text(json.dumps({"steps": steps, "left_out": left_out, **parts}, indent=1) + "\n")
failed = [name for name, step in steps.items() if step["status"]]
print(f"{result}: {len(steps)} steps, failed: {', '.join(failed) or 'none'};",
      f"left out: {', '.join(left_out) or 'nothing'}")
sys.exit(bool(failed))
PYTHON
}
tin() { "$python" -m launch "$@"; }
sanitize() { # TOOL OPTION...
    env TIN_REQUIRE_GPU=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        compute-sanitizer --tool "$@" --error-exitcode 9 "$python" -m pytest \
        tests/tin/op/test_interlace.py -m gpu \
        -k "definition_for_large_frames or single_gradient or borders"
}

touch "$work/steps" "$work/left_out"
step build tin op build
step check tin op check
"$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" && gpu=1 || gpu=

if [ "$gpu" ]; then
    step gpu_tests env TIN_REQUIRE_GPU=1 "$python" -m pytest -m gpu
    step bench_op tin bench op --seconds "$seconds" --json "$work/parts/op.json"
    videos="--train 960 --val 64 --size 256"
    settings=(train.batch=32 train.bn=partial)
else
    leave_out gpu_tests "no GPU: pytest -m gpu (kernels, streams, graphs, DALI mixed, NCCL)"
    leave_out sanitizer "no GPU: compute-sanitizer over the operator's tests"
    leave_out graphs "no GPU: replay of CUDA graphs, bfloat16 and float16 on tensor cores"
    leave_out mixed "no GPU: JPEG decoding on the device"
    step tests "$python" -m pytest tests/tin/op/test_interlace.py
    step bench_op tin bench op --seconds "$seconds" --clips 4 --json "$work/parts/op.json"
    videos="--train 32 --val 8 --size 128"
    settings=(train.batch=8 clip.crop=112 clip.resize=128 model.arch=resnet18)
fi
step aims "$python" tests/bench_interlace.py "$work/parts/op.json"

# The videos are generated, because only the speed is measured.
# shellcheck disable=SC2086
step videos tin data demo "$work/videos" $videos
step shard tin shard "$work/videos" "$work/dataset" --labels "$work/videos/labels.csv"
step bench_data tin bench data --json "$work/parts/data.json" "$work/dataset" "${settings[@]}"
step bench_train tin bench train --json "$work/parts/train.json" "$work/dataset" "${settings[@]}"

if [ "$gpu" ]; then # the longest steps come last
    step bench_model tin bench model --no-compiled --json "$work/parts/model.json"
    if command -v compute-sanitizer >/dev/null; then
        step memcheck sanitize memcheck --kernel-regex kns=_ZN3tin
        step racecheck sanitize racecheck --kernel-regex kns=_ZN3tin
        step synccheck sanitize synccheck --kernel-regex kns=_ZN3tin
        step initcheck sanitize initcheck # without a filter: it must see what the kernels of torch write
    else
        leave_out sanitizer "no compute-sanitizer"
    fi
    step bench_compiled tin bench model --seconds 3 --json "$work/parts/compiled.json"
else
    step bench_model tin bench model --seconds 2 --no-compiled --json "$work/parts/model.json"
fi
for name in "$@"; do
    cut -f 1 "$work/steps" | grep -qx "$name" || {
        echo "step $name does not exist on this machine; the steps are listed above" >&2
        exit 2
    }
done
write_result
