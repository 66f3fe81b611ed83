"""transformers' Trainer over windows of token ids."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from cpm_gen.config.environment import environment
from cpm_gen.finetuning.flow import Flow
from cpm_gen.finetuning.optimizers import make_optimizer
from cpm_gen.finetuning.schedule import learning_rate_factor
from cpm_gen.finetuning.setup import HELD_OUT, Outcome, Report, Setup
from cpm_gen.finetuning.windows import IGNORED, Rows

_ENDLESS = 1 << 40  # steps of a run that the clock ends
# checkpoints: the best, the newest and the one before it, as others are removed before the newest is sealed
_KEPT = 3
_LOGGED_EVERY = 10  # steps
_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # what a launcher says


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
        self.flow = Flow(setup, report, stop, self)
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
        loss = _summed(model, inputs) / num_items_in_batch.clamp(min=1)
        return loss * self.accelerator.num_processes  # the ranks' gradients are averaged

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.recent = loss if self.recent is None else self.recent + loss
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Nats a token of the held-out windows."""
        metrics = {HELD_OUT: self.measured(self.setup.held)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measured(self, windows: list[Rows]) -> float:
        """Nats a token of ``windows``; each rank computes some of them."""
        model: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
        total, count = torch.zeros(2, dtype=torch.float64)
        model.eval()
        with torch.no_grad():
            for rows in windows[self.args.process_index :: self.args.world_size]:
                batch = {name: values.to(self.args.device) for name, values in _collate([rows]).items()}
                with self.compute_loss_context_manager():
                    total += float(_summed(model, batch))
                count += int((batch["labels"] != IGNORED).sum())
        sums = self.accelerator.reduce(torch.stack([total, count]).to(self.args.device, torch.float64), "sum")
        return float(sums[0] / sums[1])

    def held_out_losses(self) -> list[float]:
        """All measurements of the run so far, those before a restart included."""
        return [entry[HELD_OUT] for entry in self.state.log_history if HELD_OUT in entry]


def _summed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The sum over targets, in nats."""
    loss: Tensor = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], targets=batch["labels"], use_cache=False
    )
    return loss


def _arguments(setup: Setup) -> TrainingArguments:
    options = setup.options
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(setup.folder.checkpoints),
        use_cpu=setup.use_cpu,
        ddp_backend="gloo" if setup.use_cpu and world > 1 else None,
        ddp_find_unused_parameters=False,
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
        metric_for_best_model=HELD_OUT,
        greater_is_better=False,
        save_strategy="steps",
        save_steps=_ENDLESS,
        save_total_limit=_KEPT,
        logging_steps=_LOGGED_EVERY,
        logging_first_step=True,
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        report_to=["tensorboard"],
        remove_unused_columns=False,
        dataloader_pin_memory=not setup.use_cpu,
        deepspeed=options.deepspeed,
        seed=setup.seed % 2**32,
    )


def leave_ranks() -> None:
    """Leave the group of ranks, so that this process may load a model by itself."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in _RANK:
        os.environ.pop(name, None)


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
        test = trainer.measured(setup.test) if setup.test and not flow.stopped else None
    return Outcome(
        steps=state.global_step,
        tokens=flow.tokens,
        seconds=setup.progress.elapsed,
        stopped=flow.stopped,
        early=flow.early,
        best=best,
        before=losses[0] if losses else None,
        after=_loss_of_result(losses, setup),
        test=test,
    )


def _loss_of_result(losses: list[float], setup: Setup) -> float | None:
    """The held-out loss of the weights that the run ends with: of the best measurement after the first one, or the last."""
    if len(losses) < 2:
        return None
    return min(losses[1:]) if setup.options.patience else losses[-1]


@contextlib.contextmanager
def _quiet(setup: Setup) -> Iterator[None]:
    """Without messages of the libraries, and TensorBoard's files in the run's folder."""
    variables = {"TENSORBOARD_LOGGING_DIR": str(setup.folder.path / "tensorboard")}
    if setup.use_cpu:
        variables["DS_ACCELERATOR"] = "cpu"  # where DeepSpeed is installed, it warns that it found no GPU
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with environment(variables), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
