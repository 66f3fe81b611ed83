"""transformers' Trainer over windows of token ids."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning.memory import MemoryPlan
from cpm_gen.finetuning.optimizers import make_optimizer
from cpm_gen.finetuning.run_folder import RunFolder
from cpm_gen.finetuning.schedule import Progress, learning_rate_factor
from cpm_gen.finetuning.windows import IGNORED, Rows, Windows

_ENDLESS = 1 << 40  # steps of a run that the clock ends
_KEPT = 2  # checkpoints, beside the best one
_LOGGED_EVERY = 10  # steps
_HELD_OUT = "eval_loss"


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

    held: held-out windows; empty if nothing is held out. half: the 16-bit format of the computation; None: float32. prompt: of samples.
    sample: writes a text with the network. resume_from: the step of the checkpoint that the run goes on from.
    """

    model: PreTrainedModel
    windows: Windows
    held: list[Rows]
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
    """How a run ended. stopped: it was asked to stop, and can go on. best: the step whose weights the network has."""

    steps: int
    tokens: int
    seconds: float
    stopped: bool
    early: bool
    best: int
    before: float | None
    after: float | None


class _Rows(Dataset[Rows]):
    """Window ``index`` of the run; see :mod:`cpm_gen.finetuning.windows`."""

    def __init__(self, setup: Setup) -> None:
        self._windows, self._progress = setup.windows, setup.progress
        self._batch = setup.options.batch or 1

    def __len__(self) -> int:
        return (self._progress.steps or _ENDLESS) * self._batch

    def __getitem__(self, index: int) -> Rows:
        return self._windows.rows(index, self._progress.whole_windows(index // self._batch))


def _collate(rows: list[Rows]) -> dict[str, Tensor]:
    """The inputs of the network; ``labels`` is what the trainer counts, ``shift_labels`` says that they are the targets already."""
    longest = {r.ids.shape[1] for r in rows}
    length = min(longest)  # rows of halves and of whole windows meet where the clock ends the first part
    joined = {
        name: torch.cat([torch.from_numpy(getattr(r, name)[:, :length]) for r in rows])
        for name in ("ids", "targets", "positions")
    }
    return {
        "input_ids": joined["ids"],
        "position_ids": joined["positions"],
        "labels": joined["targets"],
        "shift_labels": joined["targets"],
    }


class WindowTrainer(Trainer):
    """The trainer of a run: our optimizer and schedule, an exact held-out loss, and the loss in float32."""

    def __init__(self, setup: Setup, report: Report, stop: Callable[[], bool]) -> None:
        self.setup = setup
        self.recent: Tensor | None = None
        self.flow = _Flow(setup, report, stop, self)
        super().__init__(
            model=setup.model,
            args=_arguments(setup),
            train_dataset=_Rows(setup),
            data_collator=_collate,
            callbacks=[self.flow],
        )
        self.remove_callback(transformers.PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.setup.model, self.setup.options, self.setup.learning_rate)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        progress, options = self.setup.progress, self.setup.options

        def factor(step: int) -> float:
            return learning_rate_factor(progress.at(step + 0.5), options)

        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False).logits
        loss = _loss(logits, inputs["labels"]) / num_items_in_batch
        return loss * self.accelerator.num_processes  # the ranks' gradients are averaged

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.recent = loss if self.recent is None else self.recent + loss
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Nats a token of the held-out windows; each rank computes some of them."""
        model: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
        total, count = torch.zeros(2, dtype=torch.float64)
        mine = self.setup.held[self.args.process_index :: self.args.world_size]
        model.eval()
        with torch.no_grad():
            for rows in mine:
                batch = {name: values.to(self.args.device) for name, values in _collate([rows]).items()}
                with self.compute_loss_context_manager():
                    logits = model(
                        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
                    ).logits
                total += float(_loss(logits, batch["labels"]))
                count += int((batch["labels"] != IGNORED).sum())
        sums = self.accelerator.reduce(torch.stack([total, count]).to(self.args.device, torch.float64), "sum")
        metrics = {_HELD_OUT: float(sums[0] / sums[1])}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out_losses(self) -> list[float]:
        """All measurements of the run so far, those before a restart included."""
        return [entry[_HELD_OUT] for entry in self.state.log_history if _HELD_OUT in entry]


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over targets."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def _arguments(setup: Setup) -> TrainingArguments:
    options = setup.options
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(setup.folder.checkpoints),
        use_cpu=setup.use_cpu,
        ddp_backend="gloo" if setup.use_cpu and world > 1 else None,
        per_device_train_batch_size=setup.memory.micro_batch,
        gradient_accumulation_steps=(options.batch or 1) // (setup.memory.micro_batch * world),
        gradient_checkpointing=setup.memory.checkpointing,
        max_steps=setup.progress.steps or _ENDLESS,
        max_grad_norm=options.clip,
        learning_rate=setup.learning_rate,
        bf16=setup.half == torch.bfloat16,
        fp16=setup.half == torch.float16,
        train_sampling_strategy="sequential",
        eval_strategy="no",  # the callback says when
        eval_on_start=setup.resume_from is None and bool(setup.held),
        metric_for_best_model=_HELD_OUT,
        greater_is_better=False,
        save_strategy="steps",
        save_steps=_ENDLESS,
        save_total_limit=_KEPT,
        logging_steps=_LOGGED_EVERY,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=["tensorboard"],
        remove_unused_columns=False,
        dataloader_pin_memory=not setup.use_cpu,
        deepspeed=options.deepspeed,
        seed=setup.seed % 2**32,
    )


class _Flow(TrainerCallback):
    """Says when to measure, to save and to end."""

    def __init__(self, setup: Setup, report: Report, stop: Callable[[], bool], trainer: WindowTrainer) -> None:
        self._setup, self._report, self._stop, self._trainer = setup, report, stop, trainer
        self.stopped = self.early = False
        self.first_loss: float | None = None
        self._place = 0  # measurements that are due by now
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        progress = self._setup.progress
        progress.begin(progress.before)
        self._place = self._due(progress.at(state.global_step))
        self.tokens = state.global_step * self._step_tokens

    @property
    def _step_tokens(self) -> int:
        return (self._setup.options.batch or 1) * self._setup.windows.length

    def _due(self, share: float) -> int:
        return int(share * self._setup.progress.measurements + 1e-9)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        setup, progress = self._setup, self._setup.progress
        self.tokens += self._step_tokens
        share = self._agreed(progress.at(state.global_step))
        asked = bool(self._agreed(float(self._stop())))
        ended = share >= 1.0
        due = self._due(share)
        if due > self._place or ended:
            self._place = due
            control.should_evaluate = bool(setup.held)
            control.should_save = control.should_save or setup.options.save_every is None
        if setup.options.save_every and state.global_step % setup.options.save_every == 0:
            control.should_save = True
        if ended or asked:
            control.should_training_stop = control.should_save = True
            self.stopped = not ended
            control.should_evaluate = control.should_evaluate and ended
        self._say(state, control)

    def _agreed(self, value: float) -> float:
        """Rank 0's value: clocks and signals differ, and the ranks must do the same."""
        if self._trainer.args.world_size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self._trainer.args.device)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    def _say(self, state: Any, control: Any) -> None:
        recent, self._trainer.recent = self._trainer.recent, None
        progress = self._setup.progress
        self._report(
            Step(
                state.global_step,
                progress.at(state.global_step),
                progress.elapsed,
                self.tokens,
                loss=None if recent is None else float(recent),
            )
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        setup = self._setup
        losses = self._trainer.held_out_losses()
        best = losses.index(min(losses))
        if best == len(losses) - 1 and state.global_step:
            control.should_save = True  # the weights that the run may end with
        patience = setup.options.patience
        if patience and len(losses) - 1 - best >= patience:
            self.early = True
            control.should_training_stop = control.should_save = True
        sample = setup.sample(setup.model) if setup.sample and args.process_index == 0 else None
        at = setup.progress.at(state.global_step)
        self._report(
            Step(state.global_step, at, setup.progress.elapsed, self.tokens, held_out=losses[-1], sample=sample)
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.process_index == 0:
            self._setup.folder.seal(state.global_step, self._setup.progress.elapsed)


def run(setup: Setup, report: Report, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Train, and leave the network of ``setup`` with the weights of the best measurement, or the last where nothing was held out."""
    with _quiet(setup):
        trainer = WindowTrainer(setup, report, stop)
        at = None if setup.resume_from is None else str(setup.folder.checkpoint(setup.resume_from))
        trainer.train(resume_from_checkpoint=at)
        flow, state = trainer.flow, trainer.state
        losses = trainer.held_out_losses()
        best = state.global_step
        if setup.options.patience and losses and not flow.stopped and state.best_global_step:
            best = state.best_global_step
            if best != state.global_step:
                trainer._load_from_checkpoint(str(setup.folder.checkpoint(best)))
    return Outcome(
        steps=state.global_step,
        tokens=flow.tokens,
        seconds=setup.progress.elapsed,
        stopped=flow.stopped,
        early=flow.early,
        best=best,
        before=losses[0] if losses else None,
        after=(min(losses) if setup.options.patience else losses[-1]) if losses else None,
    )


@contextlib.contextmanager
def _quiet(setup: Setup) -> Iterator[None]:
    """Without messages of the libraries, and TensorBoard's files in the run's folder."""
    variables = {"TENSORBOARD_LOGGING_DIR": str(setup.folder.path / "tensorboard")}
    if setup.use_cpu:
        variables["DS_ACCELERATOR"] = "cpu"  # where DeepSpeed is installed, it warns that it found no GPU
    before = {name: os.environ.get(name) for name in variables}
    verbosity = transformers_logging.get_verbosity()
    os.environ.update(variables)
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        transformers_logging.set_verbosity(verbosity)
