#!/usr/bin/env bash
# Replaces the original's generate_lyric.sh: recomputes everything for every token; the window drops one token per step.
#   bash scripts/generate_lyric.sh [MODEL_DIR] [INPUT_FILE] [flags…]      with MPSIZE=2 in the environment: two ranks
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
PRESET=(--config "$here/../configs/original.yaml")
run_cpm_gen lyric "$here/../examples/lyric.txt" "$@"
