#!/usr/bin/env bash
# Checks and measurements for a machine with a GPU, in under 9 minutes and without a network:
# installs the package if needed, checks the kernels against float64, tunes the head (which checks
# every variant), then measures the kernels, the training of a role and, where vLLM is installed,
# sampling. (pytest tests/training/test_gpu.py checks packs and whole runs.)
#
#     benchmarks/gpu.sh [RESULTS [RIVALS]]
#
# RESULTS: folder for kernels_gpu.json, training_gpu.json, training_profile.txt and sampling_gpu.json,
# default benchmarks/results. RIVALS (or MALT_RIVALS): folder
# with other libraries, and with build tools or matplotlib if those are missing; prepare it on another machine by
#     pip install --target RIVALS --no-deps --python-version 3.12 --only-binary :all: \
#         trl==1.16.0 liger-kernel==0.8.5 cut-cross-entropy==25.1.1
# Missing libraries are listed as such. PYTHON: the interpreter, default python3.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=$(realpath -m "${1:-$root/benchmarks/results}")
rivals=${2:-${MALT_RIVALS:-}}
python=${PYTHON:-python3}
if [[ -n $rivals ]]; then
  rivals=$(realpath -e "$rivals")
  export PYTHONPATH=$rivals${PYTHONPATH:+:$PYTHONPATH}
fi
cd "$root"

echo "== environment"
nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm --format=csv || true
"$python" - <<'PY'
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

names = "torch triton transformers numpy rich trl liger-kernel cut-cross-entropy quack-kernels"
print(f"Python {platform.python_version()}, {platform.platform()}, CUDA {torch.version.cuda}")
for name in names.split():
    try:
        print(f"{name} {version(name)}")
    except PackageNotFoundError:
        print(f"{name}: not installed")
if not torch.cuda.is_available():
    raise SystemExit("torch sees no GPU here: run this on a machine that has one")
PY

echo "== package"
if (cd / && "$python" -c 'import malt_fast._core; print("found", malt_fast.__file__)' 2>/dev/null); then
  :
elif "$python" -c 'import pybind11, scikit_build_core' 2>/dev/null &&
  { command -v cmake || "$python" -c 'import cmake'; } >/dev/null 2>&1 &&
  "$python" -m pip install --quiet --no-build-isolation --no-deps .; then
  echo "installed"
else
  echo "Not installed: cmake, pybind11, scikit-build-core or a compiler is missing. The kernels run" \
    "from the checkout, because on a GPU they need nothing compiled."
  package=$(mktemp -d)
  trap 'rm -r "$package"' EXIT
  cp -r python/malt_fast "$package"
  cp -r kernels "$package/malt_fast"
  export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH}
fi

echo "== checks"
timeout 50 "$python" benchmarks/check_gpu.py

echo "== tuning"
# The table that the package reads is written after every size; it is copied to the checkout.
table=$("$python" -c 'import torch; from malt_fast.kernels.tuned import file_of
print(file_of(torch.cuda.get_device_name()))')
timeout 100 "$python" -m malt_fast.kernels.tune --seconds 75 || (($? == 124))
if [[ -f $table && ! $table -ef kernels/tuned/$(basename "$table") ]]; then
  mkdir -p kernels/tuned
  cp "$table" kernels/tuned/
fi

echo "== measurements"
# If interrupted, the benchmark reports what it has measured so far.
timeout -s INT -k 20 110 "$python" benchmarks/bench_kernels.py --preset gpu \
  --seconds 60 --json "$results/kernels_gpu.json" || (($? == 124))
if "$python" -c 'import matplotlib' 2>/dev/null; then
  "$python" benchmarks/plot_kernels.py "$results/kernels_gpu.json"
fi
if "$python" -c 'import malt_fast._core, peft, trl' 2>/dev/null; then
  timeout 150 "$python" benchmarks/bench_training.py --preset h100 --layers 16 --steps 3 \
    --methods none selective \
    --profile "$results/training_profile.txt" --json "$results/training_gpu.json" || (($? == 124))
else
  echo "training is skipped: it needs the whole package, peft and trl"
fi
if "$python" -c 'import malt_fast._core, vllm' 2>/dev/null; then
  timeout 90 "$python" benchmarks/bench_sampling.py --preset h100 \
    --json "$results/sampling_gpu.json" || (($? == 124))
else
  echo "sampling is skipped: it needs the whole package and vllm"
fi
