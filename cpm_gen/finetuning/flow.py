"""When a run measures, saves and ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from cpm_gen.finetuning.setup import Report, Setup, Step

if TYPE_CHECKING:
    from cpm_gen.finetuning.trainer import WindowTrainer


class Flow(TrainerCallback):
    """Says when to measure, to save and to end."""

    def __init__(self, setup: Setup, report: Report, stop: Callable[[], bool], trainer: WindowTrainer) -> None:
        self._setup, self._report, self._stop, self._trainer = setup, report, stop, trainer
        self.stopped = self.early = False
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
        share = progress.clock_share = self._agreed(progress.measured(state.global_step))
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
        if recent is not None and self._trainer.args.world_size > 1:
            recent = self._trainer.accelerator.reduce(recent, "mean")  # each rank has the loss of its windows
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
        trained = losses[1:]  # a run may end with the best of these, also where it is worse than before the first step
        if trained and min(trained[:-1], default=math.inf) > trained[-1]:
            control.should_save = True
        best = losses.index(min(losses))
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
        self._trainer.accelerator.wait_for_everyone()  # each rank writes the state of its random numbers
        if args.process_index == 0:
            self._setup.folder.seal(state.global_step, self._setup.progress.elapsed)
