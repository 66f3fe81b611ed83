"""Whether a model can be opened here, and whether memory suffices for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpm_gen.config.arguments import bytes_text, one_line
from cpm_gen.config.files import shipped
from cpm_gen.config.model_sizes import KNOWN_SIZES, RankNumbers, read_size
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.diagnosis.finding import Finding

_VERIFIED = 1_000_000_000  # bytes of weights up to which their checksums are compared, which reads them all
_FORMATS = {"float32": "--dtype float32", "float16": "--dtype bfloat16", "int8": "--quantize int8"}


def model(options: ModelOptions, obstacle: str | None) -> tuple[list[Finding], Any]:
    """Whether the model and its vocabulary can be opened; and the plan of the load, None if there cannot be one.

    obstacle: why nothing of it is to be tried; None if there is no such reason.
    """
    name = options.model or "embedded"
    if obstacle is not None:
        return [Finding("model", "failed", f"{name}: not opened, {obstacle}", values={"model": name})], None
    try:
        from cpm_gen.checkpoints.checkpoint import verify_replicas
        from cpm_gen.checkpoints.checksums import verify_checksums
        from cpm_gen.runtime.plan import Machine, plan_load
        from cpm_gen.text.find_tokenizer import NoVocabulary, fitting_tokenizer

        plan = plan_load(options, Machine.detect())
        verify_replicas(plan.checkpoint)
        small = sum(c.length for c in plan.checkpoint.checksums) <= _VERIFIED
        if small:
            verify_checksums(plan.checkpoint.checksums)
    except Exception as error:  # also whatever a broken library raises
        return [Finding("model", "failed", _message(name, error), values={"model": name})], None
    size = plan.size
    text = f"{name}: {size.layers} layers, hidden size {size.hidden}, {plan.backend.name} on {plan.device}"
    remedy = None
    if plan.checkpoint.checksums and not small:
        remedy = f"the weights were not read; cpm-gen inspect {name} --verify compares them with their checksums"
    values = {"model": name, "backend": plan.backend.name, "device": str(plan.device), "reason": plan.backend.reason}
    found = [Finding("model", "ok", text, remedy, values)]
    try:
        fitting_tokenizer(options, plan.checkpoint.vocabulary)
    except NoVocabulary as error:
        found.append(Finding("vocabulary", "warning", _message(name, error), "--tokenizer DIR names one"))
    except Exception as error:
        found.append(Finding("vocabulary", "failed", _message(name, error), "--tokenizer DIR names another one"))
    return found, plan


def _message(name: str, error: Exception) -> str:
    if isinstance(error, CpmGenError):
        return one_line(error, 500)
    return f"{name}: {type(error).__name__}: {one_line(error)}"


def memory(plan: Any, gpus: list[dict[str, Any]], machine: tuple[int, int] | None) -> Finding:
    """Memory against the need of the model and of CPM-1's published sizes, in every number format.

    plan: of the model's load, or None. gpus: those of :func:`cpm_gen.runtime.diagnosis.libraries.gpus`. machine: bytes free and
    bytes in all, of this machine; None if they are not known.
    """
    index = plan.device.index if plan is not None and plan.device.type == "cuda" else None
    if index is None:
        free, total = machine or (None, None)
        where, degree = "", 1 if plan is None else plan.degree
        windows = 1  # pages of the CPU's memory are taken only when a text uses them
    else:
        free, total = gpus[index]["free_bytes"], gpus[index]["total_bytes"]
        where, degree = f" on {plan.device}", 1
        windows = max(plan.slots, 1)
    needs = []
    if plan is not None and not plan.checkpoint.is_onnx:
        from cpm_gen.checkpoints.inspect import rank_numbers

        numbers = rank_numbers(plan.checkpoint, plan.degree)
        scaled = RankNumbers(*(degree * n for n in (numbers.matrices, numbers.rows, numbers.others, numbers.window)))
        needs.append(_need(Path(plan.options.model or "embedded").name, scaled, free, windows))
    for name in KNOWN_SIZES:
        needs.append(_need(name.removesuffix(".yaml"), read_size(shipped(name)).numbers(), free, windows))
    values = {"free_bytes": free, "total_bytes": total, "windows": windows, "needs": needs}
    if free is None or total is None:
        return Finding("memory", "warning", "how much is free is not known on this system", values=values)
    text = f"{bytes_text(free)} of {bytes_text(total)} free{where}"
    if plan is None or plan.checkpoint.is_onnx:
        return Finding("memory", "ok", text, values=values)
    return _verdict(plan.options, needs[0], text, values)


def _verdict(options: ModelOptions, need: dict[str, Any], text: str, values: dict[str, Any]) -> Finding:
    """Whether the model fits as it is asked for, or in another format."""
    asked = "int8" if options.quantize == "int8" else "float32" if options.dtype == "float32" else "float16"
    formats = need["formats"]
    if formats[asked]["fits"]:
        return Finding("memory", "ok", text, values=values)
    text += f"; {need['model']} needs {bytes_text(formats[asked]['needed_bytes'])} ({_FORMATS[asked]})"
    for name in ("float16", "int8"):
        if formats[name]["fits"]:
            remedy = f"{_FORMATS[name]} needs {bytes_text(formats[name]['needed_bytes'])}, which fits"
            return Finding("memory", "warning", text, remedy, values)
    least = bytes_text(formats["int8"]["needed_bytes"])
    remedy = f"end other programs, or take a smaller model: in int8 it needs {least}; several GPUs share it (--tensor-parallel N)"
    return Finding("memory", "failed", text, remedy, values)


def _need(name: str, numbers: RankNumbers, free: int | None, windows: int) -> dict[str, Any]:
    formats = {}
    for kind, (weights, window) in numbers.memory().items():
        needed = weights + windows * window
        fits = None if free is None else needed <= free
        formats[kind] = {"weights_bytes": weights, "window_bytes": window, "needed_bytes": needed, "fits": fits}
    return {"model": name, "formats": formats}
