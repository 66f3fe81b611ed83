#!/usr/bin/env bash
# Replaces the original's generate_lyric_fast.sh: caches keys and values; unlike there, the text stays coherent past the window.
#   bash scripts/generate_lyric_fast.sh [MODEL_DIR] [INPUT_FILE] [flags…]      with MPSIZE=2 in the environment: two ranks
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
PRESET=(--decoder cached --max-new-tokens 1500 --lyric-lines eod)
run_cpm_gen lyric "$here/../examples/lyric.txt" "$@"
