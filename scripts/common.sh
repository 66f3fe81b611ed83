# shellcheck shell=bash
# Sourced by the generate_*.sh scripts: [MODEL_DIR] [INPUT_FILE] [flags…], MPSIZE from the environment.
# Usage: run_cpm_gen STYLE EXAMPLE_FILE ARGUMENTS… -- FLAGS OF THE SCRIPT…

run_cpm_gen() {
    local style=$1 input=$2 root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    shift 2
    local -a given=() preset=()
    while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
        given+=("$1")
        shift
    done
    shift
    preset=("$@")

    local model=embedded
    if [ "${#given[@]}" -gt 0 ] && [[ ${given[0]} != -* ]]; then
        model=${given[0]}
        given=("${given[@]:1}")
        if [ "${#given[@]}" -gt 0 ] && [[ ${given[0]} != -* ]]; then
            input=${given[0]}
            given=("${given[@]:1}")
        fi
    fi

    local -a python
    if [ -x "$root/.venv/bin/python" ] && [ -z "${VIRTUAL_ENV:-}" ]; then
        python=("$root/.venv/bin/python")
    else
        python=(python3)
    fi
    exec "${python[@]}" -m cpm_gen "$style" --model "$model" --prompt-file "$input" \
        --tensor-parallel "${MPSIZE:-auto}" "${preset[@]}" "${given[@]}"
}
