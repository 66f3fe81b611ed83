"""Which backend computes: the one place that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Backend

BackendName = Literal["native", "torch", "cuda_graphs", "onnx"]


@dataclass(frozen=True)
class BackendChoice:
    """The backend, the reason for it, and a note for a person whose CPU could be used better (None: nothing to say)."""

    name: BackendName
    reason: str
    note: str | None = None


def choose_backend(
    options: ModelOptions,
    device: torch.device,
    degree: int,
    *,
    native_missing: str | None,
    triton: bool,
    onnx: bool = False,
) -> BackendChoice:
    """The backend for these options on this device.

    native_missing: why the native CPU kernels cannot be used on this machine, None if they can. triton: whether it is
    installed. onnx: whether the model is an ONNX file. Raises ConfigError if the kernels or the KV cache that the options name
    cannot be had.
    """
    if onnx:
        return _in_onnx(options, device, degree)
    if options.kernels == "onnx":
        raise ConfigError("kernels onnx runs a file of cpm-gen export --format onnx; --model takes its path, FILE.onnx")
    if options.kernels == "graphs":
        if obstacle := _no_graphs(options, device, degree, triton):
            raise ConfigError(f"kernels graphs needs one GPU, Triton and the cached decoder, but {obstacle}")
        return _without_native(options, BackendChoice("cuda_graphs", "kernels is graphs"))
    if options.kernels == "torch":
        return _without_native(options, BackendChoice("torch", "kernels is torch"))
    if device.type != "cpu":
        return _without_native(options, BackendChoice("torch", f"the device is {device}"))
    if options.dtype == "float16" and options.quantize == "none":
        return _without_native(
            options, BackendChoice("torch", "the native kernels compute in float32 and bfloat16, not float16")
        )
    if native_missing is not None:
        note = f"{native_missing}, so torch computes, more slowly"
        return _without_native(options, BackendChoice("torch", native_missing, note))
    return BackendChoice("native", "the device is a CPU and the native kernels are installed")


def _in_onnx(options: ModelOptions, device: torch.device, degree: int) -> BackendChoice:
    """The backend of an ONNX file; raises ConfigError for options that such a file cannot have."""
    fixed = (
        ("kernels", options.kernels, ("auto", "onnx"), "it runs in onnxruntime"),
        ("dtype", options.dtype, ("float32",), "its number format was chosen at its export"),
        ("quantize", options.quantize, ("none",), "its number format was chosen at its export"),
        ("kv_cache", options.kv_cache, ("auto",), "its number format was chosen at its export"),
        ("tensor_parallel", str(degree), ("1",), "it holds the whole network"),
        ("device", device.type, ("cpu",), "it runs on CPUs here"),
    )
    for name, value, possible, why in fixed:
        if value not in possible:
            raise ConfigError(f"{name} {value} does not fit an ONNX file: {why}")
    return BackendChoice("onnx", "the model is an ONNX file")


def _no_graphs(options: ModelOptions, device: torch.device, degree: int, triton: bool) -> str | None:
    """Why CUDA graphs cannot be used; None if they can. They are used only on request until a GPU has run them (decision 10)."""
    if device.type != "cuda":
        return f"the device is {device}"
    if degree > 1:
        return f"there are {degree} ranks"  # collectives inside graphs have not been tried on a machine yet
    if options.decoder != "cached":
        return f"the decoder is {options.decoder}"
    return None if triton else "Triton is not installed"


def _without_native(options: ModelOptions, choice: BackendChoice) -> BackendChoice:
    """The choice; raises ConfigError if the options need the native kernels."""
    if options.kernels == "native":
        raise ConfigError(f"kernels native needs the native CPU kernels, but {choice.reason}")
    if options.kv_cache != "auto":
        raise ConfigError(f"kv_cache {options.kv_cache} needs the native CPU kernels, but {choice.reason}")
    return choice


def backend(name: BackendName) -> Backend:
    """The function that builds and loads a network of this backend. Imports only that backend."""
    if name == "native":
        from cpm_gen.networks.native.model import load_network as native

        return native
    if name == "torch":
        from cpm_gen.networks.torch.load_weights import load_network as in_torch

        return in_torch
    if name == "onnx":
        from cpm_gen.networks.onnx.model import load_network as in_onnx

        return in_onnx
    from cpm_gen.networks.cuda_graphs.model import load_network as graphs

    return graphs
