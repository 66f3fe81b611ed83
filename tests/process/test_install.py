"""``scripts/install.sh`` on machines that lack something: in a copy of its folder, with a Python that only notes what it is asked for."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    "bash",
    "cat",
    "cp",
    "dirname",
    "grep",
    "ln",
    "mkdir",
    "mktemp",
    "rm",
    "sed",
    "sleep",
    "tee",
    "uname",
)  # what every system has

# Takes a version and what is missing from its folder; notes its arguments in `log`. `failures` holds what pip says, one line a call.
PYTHON = r"""#!/bin/bash
state=$STATE
name=${0##*/}
missing() { grep -qx "$1" "$state/missing" 2>/dev/null; }
make() {
    mkdir -p "$1/bin"
    : >"$1/pyvenv.cfg"
    cp "$state/python3" "$1/bin/python"
    cp "$state/cpm-gen" "$1/bin/cpm-gen"
}
case "$*" in
*"sys.exit(sys.version_info"*) [ "$(cat "$state/version")" != 3.10.1 ]; exit ;;
*"sys.version_info[:3]"*) cat "$state/version"; exit ;;
"-c import ensurepip, venv") ! missing venv; exit ;;
"-c import venv, pip") ! missing pip; exit ;;
"-c import pip") [ ! -e "$state/broken" ]; exit ;;
esac
echo "$name $*" >>"$state/log"
case "$*" in
"-m venv"*) rm -f "$state/broken"; make "${!#}" ;;
*"install --help"*) missing resume || echo "  --resume-retries" ;;
*" install "*)
    line=$(sed -n 1p "$state/failures" 2>/dev/null)
    [ ! -e "$state/failures" ] || sed -i 1d "$state/failures"
    if [ "$line" = hang ]; then sleep 30; fi
    if [ -n "$line" ]; then echo "$line" >&2; exit 1; fi
    ;;
esac
"""
CPM_GEN = '#!/bin/bash\necho "cpm-gen $1" >>"$STATE/log"\n[ "$1" != lyric ] || [ ! -e "$STATE/silent" ] || exit 1\necho 一片相思意\n'


@dataclass
class Machine:
    """A folder with the script, a PATH of its own, and what was run there."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def missing(self, *names: str) -> None:
        (self.folder / "state" / "missing").write_text("".join(f"{name}\n" for name in names))

    def has(self, *programs: str) -> None:
        for name in programs:
            target = self.folder / "bin" / name
            target.write_text('#!/bin/bash\necho "${0##*/} $*" >>"$STATE/log"\n')
            target.chmod(0o755)

    def write(self, name: str, text: str = "") -> None:
        (self.folder / "state" / name).write_text(text)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(self.folder / "scripts" / "install.sh"), *words],
            env={"PATH": str(self.folder / "bin"), "STATE": str(self.folder / "state"), "INSTALL_PAUSE": "0"}
            | self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        process = self.start(*words)
        out, said = process.communicate(timeout=60)
        assert process.returncode == status, out + said
        return out, said

    @property
    def log(self) -> list[str]:
        path = self.folder / "state" / "log"
        return [line for line in path.read_text().splitlines() if "install --help" not in line] if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in ("scripts", "bin", "state"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "scripts" / "install.sh", tmp_path / "scripts")
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for name, text in (("python3", PYTHON), ("cpm-gen", CPM_GEN), ("version", "3.12.1\n")):
        (tmp_path / "state" / name).write_text(text)
        (tmp_path / "state" / name).chmod(0o755)
    shutil.copy(tmp_path / "state" / "python3", tmp_path / "bin" / "python3")
    found = Machine(tmp_path)
    found.has("c++")
    return found


PIP = "python -m pip --disable-pip-version-check --no-input install"
PACKAGE = f"{PIP} --retries 10 --timeout 60 --resume-retries 20 -c constraints.txt -e "


def test_it_does_the_first_command_of_the_readme_and_says_so_first(machine: Machine) -> None:
    out, said = machine.run()
    assert machine.log == ["python3 -m venv --clear .venv", f"{PACKAGE}.", "cpm-gen lyric"]
    plan, _, rest = out.partition("\n\n")
    assert "make the environment .venv with python3 (Python 3.12.1)" in plan
    assert "build the native kernels and install this folder into .venv" in plan
    assert rest.startswith("一片相思意")
    assert said == ""


def test_it_may_be_run_again(machine: Machine) -> None:
    machine.run()
    out, _ = machine.run("--test", "--extra", "serve")
    assert "use the environment .venv that is there" in out
    assert machine.log[3:] == [f"{PACKAGE}.[test,serve]", "cpm-gen lyric", "python -m pytest -n 2 --dist loadfile"]


def test_an_environment_that_does_not_work_is_replaced_and_another_folder_is_not(machine: Machine) -> None:
    machine.run()
    machine.write("broken")
    out, _ = machine.run()
    assert "replace the .venv that is there" in out
    assert machine.log.count("python3 -m venv --clear .venv") == 2
    shutil.rmtree(machine.folder / ".venv")
    (machine.folder / ".venv").mkdir()
    assert "move it away" in machine.run(status=2)[1]


def test_an_old_python_is_one_line(machine: Machine) -> None:
    machine.write("version", "3.10.1\n")
    out, said = machine.run(status=2)
    assert out == ""
    assert said.count("\n") == 1
    assert "needs Python 3.11 or newer, but python3 is 3.10.1" in said
    machine.environment["PYTHON"] = "python9"
    assert "but python9 is not there" in machine.run(status=2)[1]
    machine.environment["LC_ALL"] = "zh_CN.UTF-8"
    assert "cpm-gen 需要 Python 3.11 或更新的版本（python9：没有）" in machine.run(status=2)[1]
    assert machine.log == []


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    newer = machine.folder / "bin" / "python3.11"
    newer.write_text(PYTHON.replace('$(cat "$state/version")', "3.11.2"))
    newer.chmod(0o755)
    machine.write("version", "3.10.1\n")
    machine.write("python3", newer.read_text())
    machine.run()
    assert machine.log[0] == "python3.11 -m venv --clear .venv"


def test_without_python3_venv(machine: Machine) -> None:
    machine.missing("venv")
    out, _ = machine.run()
    assert "python3-venv is missing" in out
    assert machine.log[:2] == [
        "python3 -m venv --clear --without-pip .venv",
        "python3 -m pip --disable-pip-version-check --no-input --python .venv/bin/python install --quiet pip",
    ]


def test_without_python3_venv_and_pip(machine: Machine) -> None:
    machine.missing("venv", "pip")
    said = machine.run(status=2)[1]
    assert said.endswith("apt-get install python3-venv\n")
    assert said.count("\n") == 1
    machine.has("uv")
    machine.run(status=127)  # this uv makes nothing
    assert machine.log == ["uv venv --quiet --clear --seed --python python3 .venv"]


def test_without_a_compiler(machine: Machine) -> None:
    (machine.folder / "bin" / "c++").unlink()
    out, _ = machine.run()
    assert "without the native kernels: there is no C++ compiler" in out
    assert "apt-get install g++" in out
    assert f"{PACKAGE}." in machine.log


def test_from_a_wheel(machine: Machine) -> None:
    wheel = machine.folder / "cpm_gen-1-py3-none-any.whl"
    wheel.touch()
    machine.run("--wheel", str(wheel), "--extra", "hf")
    assert machine.log[1] == f"{PACKAGE.removesuffix('-e ')}{wheel}[hf]"
    assert "no such file" in machine.run("--wheel", "none.whl", status=2)[1]


def test_a_slow_line_is_tried_again(machine: Machine) -> None:
    machine.write("failures", "ReadTimeoutError: Read timed out.\nConnection broken: IncompleteRead(9 bytes read)\n")
    _, said = machine.run()
    assert machine.log.count(f"{PACKAGE}.") == 3
    assert "the network failed (try 2 of 5)" in said


def test_other_failures_and_a_dead_line_are_not_tried_for_ever(machine: Machine) -> None:
    machine.write("failures", "ERROR: No matching distribution found for numpy\n")
    machine.run(status=1)
    assert machine.log.count(f"{PACKAGE}.") == 1
    machine.write("log")
    machine.write("failures", "Temporary failure in name resolution\n" * 9)
    machine.run(status=1)
    assert machine.log.count(f"{PACKAGE}.") == 5
    assert "cpm-gen lyric" not in machine.log


def test_an_old_pip_is_upgraded_first(machine: Machine) -> None:
    machine.missing("resume")
    machine.run()
    assert machine.log[1:3] == [
        f"{PIP} --quiet --retries 10 --timeout 60 --upgrade pip",
        f"{PACKAGE.replace('--resume-retries 20 ', '')}.",
    ]


def test_a_mirror_and_the_build_of_torch_for_cpus(machine: Machine) -> None:
    machine.environment |= {
        "PIP_INDEX_URL": "https://me:secret@mirror.example/simple",
        "TORCH_INDEX": "https://torch.example/cpu",
    }
    out, _ = machine.run()
    assert "download packages from https://mirror.example/simple" in out
    assert "secret" not in out
    assert machine.log[1] == PACKAGE.removesuffix("-e ") + "--index-url https://torch.example/cpu torch"
    assert machine.log[2] == f"{PACKAGE}."


def test_a_package_that_does_not_write(machine: Machine) -> None:
    machine.write("silent")
    _, said = machine.run(status=1)
    assert machine.log[-1] == "cpm-gen doctor"
    assert "is installed but does not write" in said


def test_wrong_flags(machine: Machine) -> None:
    assert "there is no --cpu" in machine.run("--cpu", status=2)[1]
    assert "--extra needs a value" in machine.run("--extra", status=2)[1]
    assert "--wheel FILE" in machine.run("--help")[0]
    assert machine.log == []


def test_ctrl_c_says_what_is_kept(machine: Machine) -> None:
    machine.write("failures", "hang\n")
    process = machine.start()
    waiting: Callable[[], bool] = lambda: f"{PACKAGE}." not in machine.log  # noqa: E731
    deadline = time.monotonic() + 30
    while waiting() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.endswith("stopped; the same command continues\n")
