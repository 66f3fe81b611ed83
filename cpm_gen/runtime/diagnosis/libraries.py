"""Libraries and what they drive: torch, the native kernels, GPUs, the extras.

A library that is built for another processor ends the process that imports it, so torch and the kernels are tried in a process of
their own first.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from cpm_gen.config.arguments import one_line
from cpm_gen.networks.native import library
from cpm_gen.runtime.diagnosis.finding import Finding, in_checkout, install, install_again
from cpm_gen.runtime.diagnosis.machine import cpu_flags

TORCH_NEEDED = (2, 10)  # its safe loader has no known hole
_TRIAL_SECONDS = 120
_CORE = (
    "numpy",
    "sentencepiece",
    "jieba",
    "prompt_toolkit",
)  # torch has a finding of its own; the others started this program
_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_KERNELS: tuple[tuple[str, set[str]], ...] = (  # native/src/isa.cpp, best first
    ("amx", {*_AVX512, "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}),
    ("avx512_bf16", {*_AVX512, "avx512_vnni", "avx512_bf16"}),
    ("avx512_vnni", {*_AVX512, "avx512_vnni"}),
    ("avx512", _AVX512),
    ("avx2_vnni", {"avx2", "fma", "avx_vnni"}),
    ("avx2", {"avx2", "fma"}),
    ("dotprod", {"asimddp"}),
)
_EXTRAS = (  # name of the finding, its packages, the extra, what it is for
    ("service", ("fastapi", "uvicorn", "prometheus_client", "sqlalchemy", "alembic"), "serve", "cpm-gen serve"),
    ("postgresql", ("psycopg",), "postgres", "works of cpm-gen serve in PostgreSQL"),
    (
        "hugging face",
        ("tokenizers", "huggingface_hub"),
        "hf",
        "vocabularies other than CPM's, and downloads from the Hub",
    ),
    ("onnx", ("onnx", "onnxruntime"), "onnx", "export to ONNX, and models that are ONNX files"),
    ("gguf", ("gguf",), "gguf", "export for llama.cpp"),
    ("training", ("transformers", "accelerate", "peft"), "train", "cpm-gen finetune"),
    ("ray", ("ray",), "ray", "cpm-gen batch --ray, and replicas of Ray Serve"),
    ("traces", ("opentelemetry.sdk", "opentelemetry.instrumentation.asgi"), "otel", "traces of cpm-gen serve"),
)


def core() -> Finding:
    """The packages, besides torch, without which no text is written."""
    broken = {name: why for name in _CORE if (why := _import_error(name)) is not None}
    if not broken:
        return Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in _CORE))
    text = "; ".join(f"{name}: {why}" for name, why in broken.items())
    return Finding("packages", "failed", text, f"pip install --force-reinstall {' '.join(broken)}")


def torch() -> tuple[Finding, Any]:
    """What torch is, and the module itself; None where it cannot be imported."""
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", "failed", "not installed", "pip install 'torch>=2.10'"), None
    again = "pip install --force-reinstall 'torch>=2.10'"
    if end := _dies("import torch"):
        return Finding("torch", "failed", f"importing it {end}", f"{again}; is it built for this processor?"), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("torch")
        version = str(module.__version__)
        if module.version.cuda:
            build = f"built for CUDA {module.version.cuda}"
        elif getattr(module.version, "hip", None):
            build = f"built for ROCm {module.version.hip}"
        else:
            build = "built for CPUs"
    except Exception as error:  # whatever a broken installation raises
        text = f"cannot be imported: {type(error).__name__}: {one_line(error)}"
        return Finding("torch", "failed", text, again), None
    values = {"version": version, "cuda": module.version.cuda}
    if _release(version) < TORCH_NEEDED:
        text = f"{version}, {build}, is older than cpm-gen was made for"
        return Finding("torch", "warning", text, "pip install --upgrade 'torch>=2.10'", values), module
    return Finding("torch", "ok", f"{version}, {build}", values=values), module


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split("+")[0].split(".")[:2] if word.isdigit())


def native_kernels() -> Finding:
    """Which instruction set the native kernels use here, or why there are none."""
    again = install_again()
    if library.library_path() is not None and (
        end := _dies("from cpm_gen.networks.native import library as l; l.missing() or l.kernels()")
    ):
        text = f"opening {library.library_path()} {end}"
        return Finding("kernels", "failed", text, f"{again}, or delete that file: torch then computes")
    if (why := library.missing()) is not None:
        text = f"{why}; torch computes, several times more slowly"
        compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
        remedy = (
            again if compiler or not in_checkout() else f"install a C++ compiler (apt-get install g++), then {again}"
        )
        return Finding("kernels", "warning", text, remedy, {"why": why})
    names = library.kernels()
    text = f"{names[0]} (the library runs here as {', '.join(names)})"
    values = {"used": names[0], "usable": names, "library": str(library.library_path())}
    flags = set(cpu_flags())
    best = next((name for name, needed in _KERNELS if needed <= flags), None)
    if best is not None and best not in names:
        text += f"; this CPU has {best}, which the compiler that built the library did not know"
        return Finding("kernels", "warning", text, f"install a newer GCC or Clang, then {again}", values)
    return Finding("kernels", "ok", text, values=values)


def gpus(torch: Any) -> Finding:
    """The GPUs that torch can use. torch: the module, or None."""
    driver = _has_driver()
    if torch is None:
        text = "not known without torch" + ("; NVIDIA's driver is installed" if driver else "")
        return Finding("gpu", "absent", text, "install torch first" if driver else None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = [
                _gpu(torch, index) for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
            ]
        except Exception as error:  # CUDA's errors are of several types
            text = f"torch cannot use the GPU: {one_line(error)}"
            return Finding(
                "gpu", "warning", text, "nvidia-smi says whether the driver works; --device cpu leaves GPUs out"
            )
    if found:
        text = "; ".join(
            f"cuda:{i}: {gpu['name']}, compute capability {gpu['capability']}, "
            f"{gpu['free_bytes'] / 1e9:.1f} GB of {gpu['total_bytes'] / 1e9:.1f} GB free"
            for i, gpu in enumerate(found)
        )
        return Finding("gpu", "ok", text, values={"gpus": found})
    values: dict[str, Any] = {"gpus": []}
    if driver and torch.version.cuda is None:
        text = "NVIDIA's driver is installed, but this torch is built for CPUs"
        return Finding("gpu", "warning", text, "pip install --force-reinstall torch, in a build for CUDA", values)
    if driver:
        reason = f": {one_line(said[0].message, 160)}" if said else ""
        text = f"torch sees no GPU, although NVIDIA's driver is installed{reason}"
        remedy = "compare the driver's CUDA version (nvidia-smi) with torch's; look at CUDA_VISIBLE_DEVICES"
        return Finding("gpu", "warning", text, remedy, values)
    return Finding("gpu", "absent", "none; the CPU computes", values=values)


def _has_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
        "free_bytes": free,
        "total_bytes": total,
    }


def accelerators(gpu: bool) -> list[Finding]:
    """Triton, DeepSpeed and apex, which are optional. gpu: whether there is one, which Triton and apex are for."""
    found = []
    for name, use, remedy in (
        ("triton", "--kernels graphs, which is experimental", "pip install triton"),
        ("apex", "its LayerNorm on a GPU", "build it from NVIDIA's apex repository; texts are written without it, too"),
    ):
        if version := _installed(name):
            found.append(Finding(name, "ok", f"{version}, for {use}", values={"version": version}))
        elif gpu:
            found.append(Finding(name, "absent", f"not installed; for {use}", remedy))
        else:
            found.append(Finding(name, "absent", f"not installed; for {use}: without a GPU nothing is missing"))
    if version := _installed("deepspeed"):
        text = f"{version}, for the deepspeed launcher"
        found.append(Finding("deepspeed", "ok", text, values={"version": version}))
    else:
        text = "not installed; for the deepspeed launcher alone: --tensor-parallel and torchrun do not need it"
        found.append(Finding("deepspeed", "absent", text, install("deepspeed")))
    return found


def extras() -> list[Finding]:
    """What the extras bring. Of their packages only psycopg is imported: it alone needs a library of the system, unless it has its own."""
    found = []
    for name, packages, extra, use in _EXTRAS:
        missing = [package for package in packages if not _found(package)]
        if missing:
            text = f"{', '.join(map(_distribution, missing))} not installed; for {use}"
            found.append(Finding(name, "absent", text, install(extra)))
        elif "psycopg" in packages and (why := _import_error("psycopg")) is not None:
            found.append(Finding(name, "warning", f"psycopg: {why}; for {use}", "pip install 'psycopg[binary]'"))
        else:
            text = ", ".join(f"{_distribution(package)} {_version(_distribution(package))}" for package in packages)
            found.append(Finding(name, "ok", f"{text}, for {use}"))
    return found


def _found(package: str) -> bool:
    """Whether a package, perhaps one inside another, can be imported; without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is in
        return False


def _distribution(package: str) -> str:
    return package.replace(".", "-")  # opentelemetry.sdk is in opentelemetry-sdk


def _installed(package: str) -> str | None:
    """A package's version, "installed" if it has none, None if it is not there. Does not import it: some take seconds."""
    return None if importlib.util.find_spec(package) is None else _version(package) or "installed"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _import_error(package: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        return "not installed" if error.name == package else one_line(error)
    except Exception as error:  # whatever a broken installation raises
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _dies(program: str) -> str | None:
    """How a process that runs these lines of Python is ended by a signal; None if it ends by itself, also with an error."""
    try:
        status = subprocess.run(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TRIAL_SECONDS,
        ).returncode
    except subprocess.TimeoutExpired:
        return f"takes more than {_TRIAL_SECONDS} seconds"
    return f"ends the process with {signal.Signals(-status).name}" if status < 0 else None
