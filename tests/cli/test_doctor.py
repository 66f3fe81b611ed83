"""``cpm-gen doctor`` where libraries are missing or broken, and where there is no room."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpm_gen.cli.doctor import to_text
from cpm_gen.networks.native import library
from cpm_gen.runtime.diagnosis import libraries, machine
from cpm_gen.runtime.diagnosis.diagnose import diagnose
from cpm_gen.runtime.diagnosis.machine import memory
from tests.cli.conftest import Run
from tests.random_networks import random_checkpoint

# leaves out the finder of a working copy, so that a package earlier in the path is the one that is imported
PATH_ONLY = "import sys; sys.meta_path = [f for f in sys.meta_path if not type(f).__module__.startswith('_editable')]\n"
dies = libraries._dies
PACKAGE = Path(library.__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process torch and the kernels run already: do not try them in another one first."""
    monkeypatch.setattr(libraries, "_dies", lambda program: None)


def doctor(
    *words: str, before: str = "", path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command; ``before`` is run first in its process, ``path`` is searched first for packages."""
    program = f"{before}\nfrom cpm_gen.cli.main import main\nmain_status = main({['doctor', *words]!r})\nraise SystemExit(main_status)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        cwd=path,  # which the path of `python -c` begins with
        env={**os.environ, **({"PYTHONPATH": str(path)} if path else {}), **environment},
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run


def findings(run: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    content = json.loads(run.stdout)
    assert content["can_run"] is (run.returncode == 0)
    return by_name(run.stdout)


def by_name(out: str) -> dict[str, dict[str, Any]]:
    content = json.loads(out)["findings"]
    found = {finding["name"]: finding for finding in content}
    assert len(found) == len(content)
    return found


def test_a_machine_that_can_write_and_what_it_lacks() -> None:
    run = doctor("--json")
    assert (run.returncode, run.stderr) == (0, "")
    found = findings(run)
    assert {"python", "packages", "torch", "cpu", "kernels", "gpu", "triton", "deepspeed", "apex"} <= found.keys()
    assert {"service", "postgresql", "locale", "cache folder", "port", "model", "memory"} <= found.keys()
    for finding in found.values():
        assert "\n" not in finding["text"] + (finding["remedy"] or "")
        assert finding["status"] in ("ok", "absent", "warning")
        assert finding["remedy"] or finding["status"] != "warning"
    assert found["python"]["values"]["executable"] == sys.executable
    kernels = found["kernels"]["values"]
    if library.missing() is None:
        assert kernels["used"] == library.kernels()[0]
    else:
        assert kernels["why"] == library.missing()


def test_the_text_names_the_model_and_the_need_of_every_size(run: Run) -> None:
    status, text, said = run("doctor")
    assert (status, said) == (0, "")
    assert text.endswith("\nThe model embedded can run here.\n")
    for name in ("embedded", "cpm-distill", "cpm-medium", "cpm-large"):
        assert any(line.split()[:1] == [name] for line in text.splitlines())
    (large,) = (line for line in text.splitlines() if line.split()[:1] == ["cpm-large"])
    assert large.split()[1:3] == ["10.4", "GB"]  # 2.6 billion weights of four bytes


def test_without_torch_the_rest_is_still_looked_at() -> None:
    run = doctor("--json", before="import sys; sys.modules['torch'] = None")
    assert run.returncode == 1
    found = findings(run)
    assert (found["torch"]["status"], found["torch"]["text"]) == ("failed", "not installed")
    assert "pip install" in found["torch"]["remedy"]
    assert found["model"]["status"] == "failed"
    assert found["kernels"]["status"] == ("ok" if library.missing() is None else "warning")
    assert [need["model"] for need in found["memory"]["values"]["needs"]] == ["cpm-large", "cpm-medium", "cpm-distill"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("raise ImportError('libtorch_cpu.so: undefined symbol: x')", "ImportError: libtorch_cpu.so: undefined symbol"),
        ("raise OSError('[WinError 126]\\nnot found')", "OSError: [WinError 126] not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "importing it ends the process with SIGILL"),
    ],
)
def test_a_broken_torch_is_reported(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(content)
    run = doctor("--json", path=tmp_path)
    assert run.returncode == 1, run.stderr
    found = findings(run)
    assert says in found["torch"]["text"]
    assert "pip install --force-reinstall" in found["torch"]["remedy"]
    assert found["model"]["status"] == "failed"


def with_library(folder: Path, content: bytes) -> Path:
    """A folder with the package and this native library."""
    (folder / "cpm_gen").mkdir(parents=True)
    for each in PACKAGE.iterdir():
        (folder / "cpm_gen" / each.name).symlink_to(each)
    (folder / "configs").symlink_to(PACKAGE.parent / "configs")
    name = "libcpm_native.dylib" if sys.platform == "darwin" else "libcpm_native.so"
    target = folder / "cpm_gen" / name
    target.unlink(missing_ok=True)
    target.write_bytes(content)
    (folder / "sitecustomize.py").write_text(PATH_ONLY)
    return folder


def test_a_native_library_that_is_none_leaves_torch_to_compute(tmp_path: Path) -> None:
    without_torch = "import sys; sys.modules['torch'] = None"  # its import takes seconds
    run = doctor("--json", path=with_library(tmp_path, b"no library"), before=without_torch)
    found = findings(run)
    assert found["kernels"]["status"] == "warning"
    assert "cannot be used" in found["kernels"]["text"]
    assert found["kernels"]["remedy"]


@pytest.mark.slow
def test_a_truncated_native_library_does_not_end_the_command(tmp_path: Path) -> None:
    built = library.library_path()
    if built is None:
        pytest.skip("the native kernels are not built")
    content = built.read_bytes()
    run = doctor("--json", path=with_library(tmp_path, content[: len(content) // 2]))
    assert run.returncode in (0, 1), run.stderr
    assert findings(run)["kernels"]["status"] in ("warning", "failed")


def test_a_native_library_that_ends_the_process_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libraries.library, "library_path", lambda: tmp_path / "library.so")
    monkeypatch.setattr(
        libraries, "_dies", lambda program: "ends the process with SIGBUS" if "native" in program else None
    )
    from cpm_gen.config.resolve import Settings

    found = {finding.name: finding for finding in diagnose(Settings())}
    assert found["kernels"].status == "failed"
    assert f"opening {tmp_path / 'library.so'} ends the process with SIGBUS" in found["kernels"].text
    assert found["model"].status == "failed"
    assert found["model"].text == "embedded: not opened, as the native kernels would end this process"


@pytest.mark.parametrize(("program", "end"), [("1 / 0", None), ("", None), ("import os; os.abort()", signal.SIGABRT)])
def test_only_a_signal_counts_as_the_end_of_a_process(program: str, end: signal.Signals | None) -> None:
    assert dies(program) == (None if end is None else f"ends the process with {end.name}")


@pytest.mark.parametrize(
    ("free", "status", "remedy"),
    [
        (40_000_000, "ok", None),
        (20_000_000, "warning", "--dtype bfloat16 needs"),
        (12_000_000, "warning", "--quantize int8 needs"),
        (5_000_000, "failed", "smaller model"),
        (0, "failed", "smaller model"),
    ],
)
def test_memory_that_does_not_suffice(
    free: int, status: str, remedy: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (free, 24_000_000_000))
    code, out, _ = run("doctor", "--json")
    found = by_name(out)["memory"]
    assert found["status"] == status
    assert code == (1 if status == "failed" else 0)
    assert found["remedy"] is None if remedy is None else remedy in found["remedy"]
    assert found["values"]["needs"][-1]["formats"]["float32"]["fits"] is False


def test_memory_that_is_not_known_is_said_to_be_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_lines", lambda path: [])
    assert memory() is None
    code, text, _ = run("doctor")
    assert code == 0
    assert "how much is free is not known" in text
    assert "*" not in text.split("* does not fit")[1]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
def test_a_limit_of_the_address_space_counts() -> None:
    program = (
        "import resource; from cpm_gen.runtime.diagnosis.machine import memory; before = memory()[0];"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2); print(before > 60_000_000, memory()[0] <= 50_000_000)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "True True\n", run.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, limit, used = (
        ("/sys/fs/cgroup", "memory.max", "memory.current")
        if version == 2
        else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    content = {
        "/proc/meminfo": ["MemTotal:       1000 kB", "MemAvailable:    900 kB"],
        "/proc/self/cgroup": ["0::/box/inner"] if version == 2 else ["5:cpu,memory:/box/inner"],
        f"{base}/box/inner/{limit}": ["max"],
        f"{base}/box/inner/{used}": ["100"],
        f"{base}/box/{limit}": ["512000"],
        f"{base}/box/{used}": ["500000"],
    }
    monkeypatch.setattr(machine, "_lines", lambda path: content.get(str(path), []))
    assert memory() == (12_000, 512_000)


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    code, out, _ = run("doctor", "--json")
    assert code == 0
    found = by_name(out)
    assert found["cache folder"]["status"] == "warning"
    assert found["cache folder"]["values"]["writable"] is False
    assert str(tmp_path / "file") in found["cache folder"]["text"]
    assert "XDG_CACHE_HOME" in found["cache folder"]["remedy"]
    assert found["data folder"]["status"] == "ok"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]  # looking creates nothing


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usage = SimpleNamespace(total=10**9, used=10**9, free=5_000_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    found = {finding.name: finding for finding in machine.folders()}["cache folder"]
    assert found.status == "warning"
    assert found.text.endswith(", 5.0 MB free")
    assert "make room" in str(found.remedy)


def test_a_port_in_use_and_a_setting_that_names_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("CPM_GEN_PORT", str(taken.getsockname()[1]))
        code, out, _ = run("doctor", "--json")
    found = by_name(out)["port"]
    assert (code, found["status"]) == (0, "warning")
    assert "--port 0" in found["remedy"]


def test_a_locale_without_utf_8_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.GBK")
    monkeypatch.setattr(machine.locale, "nl_langinfo", lambda item: "GBK")
    found = machine.language()
    assert (found.status, found.text.split(":")[0]) == ("warning", "zh_CN.GBK, GBK")
    assert "UTF-8" in str(found.remedy)


def test_a_model_without_a_vocabulary(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--json", "--model", str(random_checkpoint(tmp_path)))
    assert code == 0
    found = by_name(out)
    assert found["vocabulary"]["status"] == "warning"
    assert "--tokenizer" in found["vocabulary"]["remedy"]
    assert found["memory"]["values"]["needs"][0]["model"] == tmp_path.name


def test_models_that_cannot_be_opened(run: Run, tmp_path: Path) -> None:
    code, text, said = run("doctor", "--model", str(tmp_path / "none"))
    assert (code, said) == (1, "")
    assert f"FAILED {tmp_path / 'none'}: no such folder" in text
    assert text.endswith(f"\nThe model {tmp_path / 'none'} cannot run here: model.\n")
    folder = random_checkpoint(tmp_path / "net")
    (shard,) = folder.glob("7/*.pt")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, text, _ = run("doctor", "--model", str(folder))
    assert code == 1
    assert "CRC-32" in text


def test_settings_that_are_wrong_are_a_users_mistake(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("doctor", "--model", "")[0] == 2
    monkeypatch.setenv("CPM_GEN_DTYPE", "float8")
    code, out, said = run("doctor")
    assert (code, out) == (2, "")
    assert "CPM_GEN_DTYPE" in said


def fake_torch(cuda: str | None = "13.0", gpus: int = 1, error: str | None = None) -> Any:
    def info(index: int) -> tuple[int, int]:
        if error:
            raise RuntimeError(error)
        return 139_000_000_000, 143_000_000_000

    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            mem_get_info=info,
            get_device_name=lambda index: "H200",
            get_device_capability=lambda index: (9, 0),
        ),
    )


def test_gpus() -> None:
    found = libraries.gpus(fake_torch())
    assert found.status == "ok"
    assert to_text(found).split("ok", 1)[1].strip() == (
        "cuda:0: H200, compute capability 9.0, 139.0 GB of 143.0 GB free"
    )
    broken = libraries.gpus(fake_torch(error="CUDA error:\nout of memory"))
    assert (broken.status, broken.text) == ("warning", "torch cannot use the GPU: CUDA error: out of memory")


@pytest.mark.parametrize(
    ("torch", "driver", "status", "says"),
    [
        (fake_torch(gpus=0), False, "absent", "none; the CPU computes"),
        (fake_torch(gpus=0), True, "warning", "torch sees no GPU, although NVIDIA's driver is installed"),
        (fake_torch(cuda=None, gpus=0), True, "warning", "this torch is built for CPUs"),
        (None, True, "absent", "not known without torch; NVIDIA's driver is installed"),
        (None, False, "absent", "not known without torch"),
    ],
)
def test_no_gpu(torch: Any, driver: bool, status: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_has_driver", lambda: driver)
    found = libraries.gpus(torch)
    assert found.status == status
    assert says in found.text
    assert found.remedy or not driver


def test_an_old_torch(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "from types import SimpleNamespace\n__version__ = '2.9.1+cpu'\nversion = SimpleNamespace(cuda=None)\n"
    )
    run = doctor(path=tmp_path)
    assert "2.9.1+cpu, built for CPUs, is older than" in run.stdout
    assert run.returncode == 1  # it has nothing else in it


def test_a_compiler_that_did_not_know_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni")
    monkeypatch.setattr(libraries, "cpu_flags", lambda: flags)
    monkeypatch.setattr(libraries.library, "missing", lambda: None)
    monkeypatch.setattr(libraries.library, "kernels", lambda: ["avx2", "generic"])
    found = libraries.native_kernels()
    assert found.status == "warning"
    assert "this CPU has avx512_vnni" in found.text
    monkeypatch.setattr(libraries.library, "kernels", lambda: ["avx512_vnni", "avx2", "generic"])
    assert libraries.native_kernels().status == "ok"


def test_extras_that_are_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "psycopg").mkdir()
    (tmp_path / "psycopg" / "__init__.py").write_text("raise ImportError('no pq wrapper available')")
    for name in [name for name in sys.modules if name.split(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    found = {finding.name: finding for finding in libraries.extras()}
    assert found["service"].status == "absent"
    assert found["service"].text.startswith("fastapi not installed")
    assert "[serve]" in str(found["service"].remedy)
    assert found["postgresql"].status == "warning"
    assert "no pq wrapper available" in found["postgresql"].text
