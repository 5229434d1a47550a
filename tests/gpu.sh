#!/usr/bin/env bash
# Runs everything that needs a GPU, as three calls of less than ten minutes each.
#
#   tests/gpu.sh CALL [RESULT.json [STEP...]]
#
#   operator   build, self-test, the operator's tests, its time beside that of a copy, steps of
#              training in each form of train.compile
#   training   from shards to a trained model with both ways of decoding; kill, resume, compare
#   decoding   decoding alone, compute-sanitizer, NCCL, whole models
#
# Without steps it runs all steps of the call. Each step has a time limit, and a step whose package
# is missing is left out. The result file is written again after each step, and the tables of the
# benchmarks after each row, so that a run that is stopped keeps its results. Without a GPU the
# script runs stand-ins on the CPU, and lists what it left out. PYTHON is the interpreter, and
# SECONDS_A_LINE (0.2) the time for each line of a table.
# Exit status: 1 if a step failed, 2 if a named call or step does not exist.
set -uo pipefail
cd "$(dirname "$0")/.."
call=${1:-}
result=$(realpath -m "${2:-gpu-$call.json}")
chosen=" ${*:3} "
python=${PYTHON:-.venv/bin/python}
seconds=${SECONDS_A_LINE:-0.2}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/parts"
touch "$work/steps" "$work/left_out"

step() { # NAME LIMIT_S COMMAND...: run the command; keep its status and the end of its output
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    [[ $chosen =~ ^\ *$ || $chosen == *" $name "* ]] || { leave_out "$name" "not chosen"; return 0; }
    echo "== $name: $*"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$work/$name.log" || status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - began)) >>"$work/steps"
    write_result
}
leave_out() { # NAME REASON
    echo "== $1 left out: $2"
    printf '%s\t%s\n' "$1" "$2" >>"$work/left_out"
}
has() { "$python" -c "import importlib, sys; [importlib.import_module(n) for n in sys.argv[1:]]" "$@" 2>/dev/null; }
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
tin() { # NAME LIMIT_S ARGUMENT...: a step that is a command of tin
    step "$1" "$2" "$python" -m launch "${@:3}"
}
tests() { # NAME LIMIT_S ARGUMENT...: a step that is a run of pytest
    step "$1" "$2" "$python" -m pytest -p no:cacheprovider "${@:3}"
}
sanitize() { # TOOL LIMIT_S OPTION...
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$1" "$2" \
        compute-sanitizer --tool "$1" "${@:3}" --error-exitcode 9 "$python" -m pytest \
        tests/tin/op/test_interlace.py tests/tin/op/test_nets.py -m gpu \
        -k "definition_for_large_frames or single_gradient or borders or cuda_equals_the_modules"
}

has torch && "$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" && gpu=1 || gpu=
[ "$gpu" ] && export TIN_REQUIRE_GPU=1
if [ "$gpu" ]; then
    videos=(--train 960 --val 64 --size 256)
    settings=(train.batch=32 train.bn=partial)
    decoders="cpu gpu"
else
    leave_out cuda "no GPU: kernels, streams, graphs, half types, decoding on the device, NCCL"
    videos=(--train 32 --val 8 --size 128)
    settings=(train.batch=8 clip.crop=112 clip.resize=128 model.arch=resnet18)
    decoders=cpu
fi

operator() {
    tin build 120 op build
    tin check 60 op check
    if [ "$gpu" ]; then
        tests op_tests 200 -m gpu tests/tin/op
        tests step_tests 200 -m gpu tests/tin/training
        tin bench_op 200 bench op --no-compiled --seconds "$seconds" --clips 4 --clips 16 \
            --json "$work/parts/op.json"
        tin bench_steps 200 bench steps --form none --form graphs --seconds 2 \
            --json "$work/parts/bench_steps.json"
    else
        tests op_tests 200 tests/tin/op/test_interlace.py
        tests step_tests 200 tests/tin/training/test_pass_graph.py
        tin bench_op 200 bench op --no-compiled --seconds "$seconds" --clips 4 \
            --json "$work/parts/op.json"
        tin bench_steps 200 bench steps --form none --form graphs --seconds 1 --clips 2 \
            --json "$work/parts/bench_steps.json" model.arch=resnet18 clip.crop=64 clip.resize=64
    fi
    [ -e "$work/parts/op.json" ] && step aims 20 "$python" -m tests.bench_interlace "$work/parts/op.json"
    [ "$gpu" ] && tin bench_compiled 240 bench steps --form default --seconds 2 --clips 6 \
        --json "$work/parts/compiled.json"
}

# The videos are generated, because only the speed is measured.
dataset() {
    tin videos 120 data demo "$work/videos" "${videos[@]}"
    tin shard 120 shard "$work/videos" "$work/dataset" --labels "$work/videos/labels.csv"
}

training() {
    has av simplejpeg || { leave_out training "av or simplejpeg is missing"; return; }
    dataset
    for decode in $decoders; do
        [ "$decode" = gpu ] && ! has nvidia.dali && { leave_out "train_gpu" "no DALI"; continue; }
        tin "data_$decode" 60 bench data --json "$work/parts/data_$decode.json" "$work/dataset" \
            "${settings[@]}" "run.decode=$decode"
        tin "train_$decode" 200 bench train --form none --form graphs --json "$work/parts/train_$decode.json" \
            "$work/dataset" "${settings[@]}" "run.decode=$decode"
    done
    step resume 150 "$python" -m tests.bench_resume "$work/dataset" "${settings[@]}"
}

decoding() {
    if has av simplejpeg; then
        dataset
        step decode 120 "$python" -m tests.bench_decode "$work/dataset" "$work/parts/decode.json"
    else
        leave_out decode "av or simplejpeg is missing"
    fi
    if [ "$gpu" ] && command -v compute-sanitizer >/dev/null; then
        sanitize memcheck 120 --kernel-regex kns=_ZN3tin
        sanitize racecheck 120 --kernel-regex kns=_ZN3tin
        sanitize synccheck 90 --kernel-regex kns=_ZN3tin
        sanitize initcheck 120 # without a filter: it must see what the kernels of torch write
    else
        leave_out sanitizer "no GPU, or no compute-sanitizer"
    fi
    [ "$gpu" ] && tin bench_model 200 bench model --no-compiled --seconds 1 \
        --json "$work/parts/model.json"
}

case $call in
operator | training | decoding) "$call" ;;
*)
    echo "usage: tests/gpu.sh operator|training|decoding [RESULT.json [STEP...]]" >&2
    exit 2
    ;;
esac
for name in "${@:3}"; do
    cut -f 1 "$work/steps" | grep -qx "$name" || {
        echo "step $name does not exist on this machine; the steps are listed above" >&2
        exit 2
    }
done
write_result
