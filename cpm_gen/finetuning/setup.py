"""What a run consists of, what it reports, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning.memory import MemoryPlan
from cpm_gen.finetuning.run_folder import RunFolder
from cpm_gen.finetuning.schedule import Progress
from cpm_gen.finetuning.windows import Rows, Windows

HELD_OUT = "eval_loss"  # the trainer's name of the held-out loss


@dataclass(frozen=True)
class Step:
    """What a step did. loss: of the step, nats a token; held_out: of the measurement after it, if there was one; sample: written then."""

    step: int
    progress: float
    seconds: float
    tokens: int
    loss: float | None = None
    held_out: float | None = None
    sample: str | None = None


Report = Callable[[Step], None]


@dataclass(frozen=True)
class Setup:
    """Everything a run consists of.

    held: held-out windows; empty if nothing is held out. test: others, measured once, with the weights that the run ends with. half: the
    16-bit format of the computation; None: float32. prompt: of samples. sample: writes a text with the network. resume_from: the step of
    the checkpoint that the run goes on from.
    """

    model: PreTrainedModel
    windows: Windows
    held: list[Rows]
    test: list[Rows]
    options: FinetuneOptions
    learning_rate: float
    seed: int
    folder: RunFolder
    progress: Progress
    memory: MemoryPlan
    half: torch.dtype | None
    use_cpu: bool
    prompt: str
    sample: Callable[[PreTrainedModel], str] | None = None
    resume_from: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended. stopped: it was asked to stop, and can go on. best: the step whose weights the network has.

    before, after: held-out losses in nats a token. test: that of the rows of ``test``.
    """

    steps: int
    tokens: int
    seconds: float
    stopped: bool
    early: bool
    best: int
    before: float | None
    after: float | None
    test: float | None
