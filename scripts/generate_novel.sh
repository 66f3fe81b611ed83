#!/usr/bin/env bash
# The original's generate_novel.sh: everything recomputed for every token, the window drops one token a step.
#   bash scripts/generate_novel.sh [MODEL_DIR] [INPUT_FILE] [flags…]      MPSIZE=2 in front runs on two ranks
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
PRESET=(--config "$here/../configs/original.yaml")
run_cpm_gen novel "$here/../examples/novel.txt" "$@"
