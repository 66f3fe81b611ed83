"""Python, CPU, memory, folders, port and locale, by the standard library alone."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from cpm_gen.config.arguments import bytes_text
from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError
from cpm_gen.runtime.diagnosis.finding import Finding

# instruction sets that the native kernels use, in x86-64's and ARM's names of /proc/cpuinfo
_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "amx_tile",
    "amx_bf16", "amx_int8", "asimd", "asimddp",
)  # fmt: skip
_LITTLE_DISK = 100_000_000
_FOLDERS: dict[Literal["data", "state", "cache"], tuple[str, str]] = {
    "cache": ("jieba's dictionary is built at each start, about a second", "XDG_CACHE_HOME=DIR names another folder"),
    "state": ("an interactive session has no history of prompts", "XDG_STATE_HOME=DIR names another folder"),
    "data": ("cpm-gen serve cannot keep works there", "--database FILE or XDG_DATA_HOME=DIR names another place"),
}


def python() -> Finding:
    """The version of Python and where it lies. The package does not start in an unsupported one."""
    text = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    values = {"version": platform.python_version(), "executable": sys.executable, "system": platform.platform()}
    if sys.platform == "win32":
        return Finding("python", "warning", text, "on Windows, run cpm-gen in WSL: the service needs it", values)
    return Finding("python", "ok", text, values=values)


def cpu() -> Finding:
    """The processor, the cores that this process may use, and the instruction sets that matter."""
    flags = cpu_flags()
    cores = usable_cores()
    model = _cpu_model()
    text = f"{model}, {cores} core{'s' if cores > 1 else ''}" + (f"; {' '.join(flags)}" if flags else "")
    return Finding("cpu", "ok", text, values={"model": model, "cores": cores, "flags": list(flags)})


def cpu_flags() -> tuple[str, ...]:
    """The names of /proc/cpuinfo for instruction sets that the native kernels can use; empty where there is no such file."""
    words = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    return tuple(flag for flag in _FLAGS if flag in words)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def memory() -> tuple[int, int] | None:
    """Bytes that this process can still take, and all bytes of the machine, a container's limit included; None if not known."""
    sizes = {}
    for line in _lines(Path("/proc/meminfo")):
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = int(value.removesuffix(" kB")) * 1024
    if "MemAvailable" not in sizes:
        return None
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    for limit, used in (*_container_limits(), *_process_limit()):
        free, total = min(free, max(limit - used, 0)), min(total, limit)
    return free, total


def _container_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of every control group that this process is in and that has a limit."""
    root = Path("/sys/fs/cgroup")
    for line in _lines(Path("/proc/self/cgroup")):
        number, kinds, name = line.split(":", 2)
        if number == "0":
            base, files = root, ("memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            base, files = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / name.lstrip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(base))):
            limit, used = (next(iter(_lines(folder / file)), "") for file in files)
            if limit.isdigit() and used.isdigit():
                yield int(limit), int(used)


def _process_limit() -> Iterator[tuple[int, int]]:
    """(limit, used) of this process's address space (``ulimit -v``), if it has a limit."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = next(iter(_lines(Path("/proc/self/statm"))), "").split()
    if limit != resource.RLIM_INFINITY and used:
        yield limit, int(used[0]) * resource.getpagesize()


def folders() -> list[Finding]:
    """Where the user's own files go: room, and whether they can be written."""
    return [_folder(kind, *words) for kind, words in _FOLDERS.items()]


def _folder(kind: Literal["data", "state", "cache"], consequence: str, remedy: str) -> Finding:
    name = f"{kind} folder"
    try:
        folder = user_folder(kind)
    except ConfigError as error:
        return Finding(name, "warning", f"{error}; {consequence}", remedy)
    existing = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    values: dict[str, Any] = {"folder": str(folder)}
    try:
        free = shutil.disk_usage(existing).free
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        return Finding(
            name,
            "warning",
            f"{folder} cannot be written ({error.strerror or error}): {consequence}",
            remedy,
            values | {"writable": False},
        )
    text = f"{folder}, {bytes_text(free)} free"
    values |= {"writable": True, "free_bytes": free}
    if free < _LITTLE_DISK:
        return Finding(name, "warning", text, f"make room on the disk, or {remedy}", values)
    return Finding(name, "ok", text, values=values)


def port(host: str, number: int) -> Finding:
    """Whether ``cpm-gen serve`` can listen at its address."""
    values = {"host": host, "port": number}
    address = f"{host}:{number}"
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(1)
    except OSError as error:
        text = f"cpm-gen serve cannot listen on {address}: {error.strerror or error}"
        return Finding("port", "warning", text, "cpm-gen serve --port 0 takes any free port", values | {"free": False})
    return Finding("port", "ok", f"{address} is free for cpm-gen serve", values=values | {"free": True})


def language() -> Finding:
    """Whether the terminal's character set is UTF-8, which is what cpm-gen writes in every locale."""
    words = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    named = next((word for word in words if word), "none set")
    charset = locale.nl_langinfo(locale.CODESET) if hasattr(locale, "nl_langinfo") else locale.getpreferredencoding()
    values = {"locale": named, "charset": charset}
    if charset.lower().replace("-", "") == "utf8":
        return Finding("locale", "ok", f"{named}, UTF-8", values=values)
    text = f"{named}, {charset}: cpm-gen writes UTF-8, and a terminal of another character set shows it wrongly"
    return Finding("locale", "warning", text, "export LC_ALL=C.UTF-8, or another locale with UTF-8", values)
