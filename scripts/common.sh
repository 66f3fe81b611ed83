# shellcheck shell=bash
# Sourced by the generate_*.sh scripts. Each sets PRESET, the flags of its mode.
# Usage: run_cpm_gen STYLE EXAMPLE_FILE [MODEL_DIR] [INPUT_FILE] [flags…]      ranks from MPSIZE in the environment

run_cpm_gen() {
    local style=$1 input=$2 model=embedded root python=python3 word
    shift 2
    if [ "$#" -gt 0 ] && [[ $1 != -* ]]; then
        model=$1
        shift
        if [ "$#" -gt 0 ] && [[ $1 != -* ]]; then
            input=$1
            shift
        fi
    fi
    local -a prompt=(--prompt-file "$input")
    for word in "$@"; do # a prompt among the flags replaces the example
        case $word in --prompt | --prompt=* | --prompt-file | --prompt-file=*) prompt=() ;; esac
    done

    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -x "$root/.venv/bin/python" ] && ! python3 -P -c 'import cpm_gen' 2>/dev/null; then
        python=$root/.venv/bin/python
    fi
    # ${a[@]+…}: an empty array is an error under set -u before bash 4.4
    exec "$python" -P -m cpm_gen "$style" --model "$model" ${prompt[@]+"${prompt[@]}"} \
        --tensor-parallel "${MPSIZE:-auto}" "${PRESET[@]}" "$@"
}
