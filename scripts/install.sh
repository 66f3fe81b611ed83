#!/usr/bin/env bash
# Set up cpm-gen in this working copy and write a first lyric: what the README's first command does, on machines where that fails, too.
# It says what it will do before it does it, changes nothing outside .venv and pip's cache, and may be run again at any time.
#
#   bash scripts/install.sh                     .venv, the package, a lyric
#   bash scripts/install.sh --test              and the README's second command: the tests
#   bash scripts/install.sh --extra serve       with an extra of pyproject.toml; may be repeated
#   bash scripts/install.sh --wheel FILE        the package from a wheel, which needs no compiler, instead of from this folder
#
# From the environment: PYTHON names another Python. PIP_INDEX_URL is a mirror's address, as pip has it. TORCH_INDEX is the address of
# PyTorch's index of wheels for CPUs: torch from PyPI brings CUDA's libraries on Linux, which a machine without a GPU does not need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TRIES=5 # of a step that needs the network; what was downloaded before stays in pip's cache
PAUSE=${INSTALL_PAUSE:-10}
NETWORK='connect|timed out|timeout|incompleteread|incomplete-download|temporary failure|name resolution|protocolerror|ssl|reset by peer|http error 5|max retries'

locale=${LC_ALL:-${LC_MESSAGES:-${LANG:-C}}}
case ${locale%%.*} in C | POSIX) ;; *) locale=${LANGUAGE:-$locale} ;; esac # as gettext has it

words() { # ENGLISH CHINESE: the one in the language of the locale
    case $locale in zh*) echo "$2" ;; *) echo "$1" ;; esac
}

fail() { # ENGLISH CHINESE: end with one line
    echo "install.sh: $(words "$@")" >&2
    exit 2
}

note() { echo "- $(words "$@")"; } # ENGLISH CHINESE

shown() { # ADDRESS without the user and the password that it may hold
    sed -E 's#//[^/@]*@#//#' <<<"$1"
}

usable() { # PYTHON: whether it is there and new enough
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || words "not there" "没有"; }

find_python() { # print the first Python that will do
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if usable "$name"; then
            echo "$name"
            return
        elif [ "$name" = "${PYTHON:-}" ]; then
            break
        fi
    done
    name=${PYTHON:-python3}
    fail "cpm-gen needs Python 3.11 or newer, but $name is $(version "$name"); install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or name it: PYTHON=/path/to/python3.11" \
        "cpm-gen 需要 Python 3.11 或更新的版本（$name：$(version "$name")）；请安装（Debian、Ubuntu：apt-get install python3.11 python3.11-venv），或者指明：PYTHON=/path/to/python3.11"
}

retried() { # COMMAND…: repeat it while the network is what fails
    local try said status
    said=$(mktemp)
    for ((try = 1; ; try++)); do
        set +e
        # a copy of standard error alone: standard output stays a terminal's, where pip draws its progress
        { "$@" 2>&1 >&3 3>&- | tee "$said" >&2; } 3>&1
        status=${PIPESTATUS[0]}
        set -e
        if [ "$status" = 0 ] || [ "$status" -ge 128 ] || [ "$try" = "$TRIES" ] || ! grep -Eiq "$NETWORK" "$said"; then
            rm -f "$said"
            return "$status"
        fi
        words "the network failed (try $try of $TRIES); again in $((PAUSE * try)) seconds" \
            "网络出错（第 $try 次，共 $TRIES 次）；$((PAUSE * try)) 秒后再试" >&2
        sleep "$((PAUSE * try))"
    done
}

pip() { "$venv_python" -m pip --disable-pip-version-check --no-input "$@"; }

extras=() wheel='' tested=''
while [ "$#" -gt 0 ]; do
    case $1 in
    --test) tested=yes extras+=(test) ;;
    --extra | --wheel)
        [ -n "${2:-}" ] || fail "$1 needs a value" "$1 后面须有一个值"
        if [ "$1" = --extra ]; then extras+=("$2"); else wheel=$2; fi
        shift
        ;;
    -h | --help)
        sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' scripts/install.sh
        exit 0
        ;;
    *) fail "there is no $1 (see --help)" "没有 $1 这个选项（见 --help）" ;;
    esac
    shift
done
[ -z "$wheel" ] || [ -f "$wheel" ] || fail "$wheel: no such file" "$wheel：没有这个文件"
python=$(find_python)
venv_python=.venv/bin/python

# what will be done
words "This will" "将要："
if [ -f .venv/pyvenv.cfg ] && usable "$venv_python" && "$venv_python" -c 'import pip' 2>/dev/null; then
    make=none
    note "use the environment .venv that is there (Python $(version "$venv_python"))" \
        "使用现有的环境 .venv（Python $(version "$venv_python")）"
else
    if [ -e .venv ] && [ ! -f .venv/pyvenv.cfg ]; then
        fail ".venv is there and is no virtual environment; move it away" ".venv 已经存在，但不是虚拟环境；请移走它"
    elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        make=venv
        note "make the environment .venv with $python (Python $(version "$python"))" \
            "用 $python（Python $(version "$python")）建立环境 .venv"
    elif "$python" -c 'import venv, pip' 2>/dev/null; then
        make=without-pip
        note "make the environment .venv with $python (Python $(version "$python")); as python3-venv is missing, $python's own pip fills it" \
            "用 $python（Python $(version "$python")）建立环境 .venv；没有 python3-venv，由 $python 自己的 pip 安装"
    elif command -v uv >/dev/null; then
        make=uv
        note "make the environment .venv with uv for $python, as python3-venv is missing" \
            "用 uv 为 $python 建立环境 .venv，因为没有 python3-venv"
    else
        fail "$python can make no virtual environment; on Debian and Ubuntu: apt-get install python3-venv" \
            "$python 不能建立虚拟环境；Debian 和 Ubuntu 上请运行 apt-get install python3-venv"
    fi
    [ ! -e .venv ] || note "replace the .venv that is there: it does not work" "替换现有的 .venv：它不能用"
fi
[ -z "${PIP_INDEX_URL:-}" ] || note "download packages from $(shown "$PIP_INDEX_URL")" "从 $(shown "$PIP_INDEX_URL") 下载软件包"
if [ -n "${TORCH_INDEX:-}" ]; then
    note "download torch from $(shown "$TORCH_INDEX")" "从 $(shown "$TORCH_INDEX") 下载 torch"
elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    note "download torch with CUDA's libraries, if the index has it so; there is no GPU: TORCH_INDEX=ADDRESS, PyTorch's index of wheels for CPUs, saves gigabytes" \
        "下载 torch，多半连同 CUDA 的库；这里没有显卡：设 TORCH_INDEX=地址（PyTorch 的 CPU 版索引），可以少下载几个 GB"
fi
names=$(IFS=, && echo "${extras[*]-}")
if [ -n "$wheel" ]; then
    note "install $wheel${names:+ with $names}" "安装 $wheel${names:+，连同 $names}"
elif command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then
    note "build the native kernels and install this folder into .venv${names:+ with $names}" \
        "编译 native 内核，把这个文件夹安装到 .venv${names:+，连同 $names}"
else
    note "install this folder into .venv${names:+ with $names}, without the native kernels: there is no C++ compiler. torch then computes, several times more slowly. Install g++ (apt-get install g++) and run this again, or give --wheel FILE" \
        "把这个文件夹安装到 .venv${names:+，连同 $names}，不含 native 内核，因为没有 C++ 编译器；改由 torch 计算，慢几倍。装好 g++（apt-get install g++）再运行一次，或者用 --wheel FILE"
fi
note "write a lyric${tested:+, and run the tests}" "写一首歌词${tested:+，再运行测试}"
echo

trap 'echo "install.sh: $(words "stopped; the same command continues" "已停下；用同样的命令接着装")" >&2; exit 130' INT
case $make in
venv) "$python" -m venv --clear .venv ;;
without-pip)
    "$python" -m venv --clear --without-pip .venv
    retried "$python" -m pip --disable-pip-version-check --no-input --python "$venv_python" install --quiet pip
    ;;
uv) retried uv venv --quiet --clear --seed --python "$python" .venv ;;
esac
slow=(--retries 10 --timeout 60)
if ! pip install --help | grep -q -- --resume-retries; then # before pip 25.1; without it the rest works, too
    retried "$venv_python" -m pip --disable-pip-version-check --no-input install --quiet "${slow[@]}" --upgrade pip || true
fi
if pip install --help | grep -q -- --resume-retries; then
    slow+=(--resume-retries 20)
fi
if [ -n "${TORCH_INDEX:-}" ]; then
    retried pip install "${slow[@]}" -c constraints.txt --index-url "$TORCH_INDEX" torch
fi
if [ -n "$wheel" ]; then
    retried pip install "${slow[@]}" -c constraints.txt "$wheel${names:+[$names]}"
else
    retried pip install "${slow[@]}" -c constraints.txt -e ".${names:+[$names]}"
fi
if ! .venv/bin/cpm-gen lyric "明月几时有，把酒问青天。" --seed 1; then
    echo "install.sh: $(words "cpm-gen is installed but does not write; it says of this machine:" "cpm-gen 装好了，但写不出来；它对这台机器的说明：")" >&2
    .venv/bin/cpm-gen doctor >&2 || true
    exit 1
fi
if [ -n "$tested" ]; then
    "$venv_python" -m pytest -n 2 --dist loadfile
fi
echo
words "Installed. .venv/bin/cpm-gen --help lists the commands; .venv/bin/cpm-gen doctor says what this machine can run." \
    "装好了。.venv/bin/cpm-gen --help 列出各个命令；.venv/bin/cpm-gen doctor 说明这台机器能运行什么。"
