"""All that is looked at, in the order in which it is printed."""

from __future__ import annotations

from collections.abc import Iterator

from cpm_gen.config.resolve import Settings
from cpm_gen.runtime.diagnosis import libraries, machine
from cpm_gen.runtime.diagnosis import model as models
from cpm_gen.runtime.diagnosis.finding import Finding


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Look at this machine, for the model and the service that the settings describe. The model can run if no status is "failed"."""
    yield machine.python()
    yield libraries.core()
    torch_found, torch = libraries.torch()
    yield torch_found
    yield machine.cpu()
    kernels = libraries.native_kernels()
    yield kernels
    gpu = libraries.gpus(torch)
    yield gpu
    found = list(gpu.values.get("gpus", ()))
    yield from libraries.accelerators(bool(found))
    yield from libraries.extras()
    yield machine.language()
    yield from machine.folders()
    yield machine.port(settings.serve.host, settings.serve.port)
    obstacle = "as torch cannot be imported" if torch is None else None
    if kernels.status == "failed":
        obstacle = "as the native kernels would end this process"
    model, plan = models.model(settings.model, obstacle)
    yield from model
    yield models.memory(plan, found, machine.memory())
