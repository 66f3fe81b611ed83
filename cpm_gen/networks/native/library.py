"""The native CPU library (``native/``) as ctypes sees it: found, declared, opened once.

It is built when the package is installed and left out where there is no compiler; :func:`load_library` then says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import sys
from ctypes import c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

from cpm_gen.errors import ConfigError

ABI = 6  # CPM_ABI of native/include/cpm_native.h
MAX_THREADS = 1024  # CPM_MAX_THREADS: of one rank
GELU = {"tanh": 0, "erf": 1}
FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2}
NO_MEMORY, ABORTED = 1, 2

AllReduce = ctypes.CFUNCTYPE(c_int, ctypes.POINTER(ctypes.c_float), c_int64)


class Sizes(ctypes.Structure):
    """``cpm_sizes``."""

    _fields_ = [
        (name, c_float if name == "epsilon" else c_int32)
        for name in (
            "layers", "hidden", "heads", "head_dim", "inner", "vocabulary", "first_row", "positions", "ranks", "format",
            "kv_format", "threads", "first_cpu", "epsilon", "gelu", "untied", "scale_by_layer",
        )
    ]  # fmt: skip


class CSegment(ctypes.Structure):
    """``cpm_segment``."""

    _fields_ = [(name, c_int32) for name in ("count", "start", "slot", "wanted")]


class CPick(ctypes.Structure):
    """``cpm_pick``."""

    _fields_ = [
        ("row", c_int32), ("top_k", c_int32), ("count", c_int64), ("allowed", c_void_p), ("bias", c_void_p), ("banned_count", c_int64),
        ("banned", c_void_p), ("temperature", c_double), ("top_p", c_double), ("min_p", c_double), ("draws", c_int32),
        ("numbers", c_void_p), ("tokens", c_void_p),
    ]  # fmt: skip


_DECLARATIONS = {
    "cpm_abi": (c_int, []),
    "cpm_kernels": (c_char_p, []),
    "cpm_create": (c_void_p, [ctypes.POINTER(Sizes), c_char_p]),
    "cpm_destroy": (None, [c_void_p]),
    "cpm_model_kernels": (c_char_p, [c_void_p]),
    "cpm_pack": (c_int, [c_void_p, c_int, c_int, c_void_p, c_int, c_int64, c_int64, c_int64, c_int64]),
    "cpm_weight_bytes": (c_int64, [c_void_p]),
    "cpm_cache_create": (c_void_p, [c_void_p, c_int32]),
    "cpm_cache_destroy": (None, [c_void_p]),
    "cpm_cache_bytes": (c_int64, [c_void_p]),
    "cpm_cache_copy": (None, [c_void_p, c_void_p, c_int32, c_int32, c_int32]),
    "cpm_step": (c_int, [c_void_p, c_void_p, c_void_p, c_int32, c_void_p, AllReduce, c_void_p]),
    "cpm_head": (c_int, [c_void_p, c_void_p, c_int64, c_void_p]),
    "cpm_choose": (None, [c_void_p, c_void_p, c_int64, ctypes.POINTER(CPick), c_int32]),
    "cpm_log_sums": (None, [c_void_p, c_void_p, c_int64, c_int64, c_void_p]),
    "cpm_profile": (None, [c_void_p, ctypes.POINTER(c_double * 5)]),
}


@functools.cache
def load_library() -> ctypes.CDLL:
    """The library; raises ConfigError, saying why there is none."""
    path = library_path()
    if path is None:
        raise ConfigError("the native kernels were not built when cpm-gen was installed (is there a C++ compiler?)")
    if message := stale():
        raise ConfigError(message)
    try:
        opened = ctypes.CDLL(str(path))
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ConfigError(f"the native kernels cannot be used: {error}") from None
    return opened


def stale() -> str | None:
    """What to do about a library that was built from the sources of another version; None if there is no such library."""
    path = library_path()
    try:
        if path is None or ctypes.CDLL(str(path)).cpm_abi() == ABI:
            return None
    except (OSError, AttributeError):  # load_library says why it cannot be used
        return None
    checkout = (Path(__file__).parents[3] / "native" / "CMakeLists.txt").is_file()
    remedy = "build it again in the checkout: pip install --no-deps -e ." if checkout else "install cpm-gen again"
    return f"{path}: was built for another version of cpm-gen; {remedy}"


def missing() -> str | None:
    """Why there is no library; None where there is one."""
    try:
        load_library()
    except ConfigError as error:
        return str(error)
    return None


def kernels() -> list[str]:
    """Names of the kernels that this machine can run, best first."""
    names: bytes = load_library().cpm_kernels()
    return names.decode().split()


def library_path() -> Path | None:
    """Beside the package, or, where that is a working copy (``pip install -e``), where the installer put it."""
    name = "libcpm_native.dylib" if sys.platform == "darwin" else "libcpm_native.so"
    places = [Path(__file__).parents[2] / name]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        places.append(Path(str(importlib.metadata.distribution("cpm-gen").locate_file(f"cpm_gen/{name}"))))
    return next((place for place in places if place.is_file()), None)
