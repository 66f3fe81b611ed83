"""How far a run is, and the learning rate there."""

from __future__ import annotations

import math
import time

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning.windows import WHOLE_FROM

MEASUREMENTS = 20  # of the held-out loss in a run, its end included
_STEPS_BETWEEN = 5  # at least, in a run of few steps


class Progress:
    """How much of a run is done, from 0 to 1: by steps, or by the clock.

    steps: of the run; None: it ends after ``seconds``. before: seconds of the run before it was stopped. clock_share: what :meth:`at`
    returns in a run that the clock ends; it changes between steps only, so that all ranks can be given the same.
    """

    def __init__(self, steps: int | None, seconds: float | None = None) -> None:
        assert (steps is None) != (seconds is None)
        self.steps, self.seconds = steps, seconds
        self.before = 0.0
        self.clock_share = 0.0
        self._began: float | None = None

    def begin(self, before: float) -> None:
        """Start the clock."""
        self.before, self._began = before, time.monotonic()
        self.clock_share = self.measured(0)

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far."""
        return self.before + (time.monotonic() - self._began if self._began is not None else 0.0)

    def measured(self, step: float) -> float:
        """The share that is done when ``step`` steps are, by this process's clock."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.seconds is not None
        return min(self.elapsed / self.seconds, 1.0)

    def at(self, step: float) -> float:
        """The share that is done when ``step`` steps are."""
        return self.clock_share if self.steps is None else self.measured(step)

    def whole_windows(self, step: int) -> bool:
        """Whether windows are whole at that step."""
        return self.at(step) >= WHOLE_FROM

    @property
    def measurements(self) -> int:
        """How often the held-out loss is measured."""
        return MEASUREMENTS if self.steps is None else max(1, min(MEASUREMENTS, self.steps // _STEPS_BETWEEN))


def learning_rate_factor(progress: float, options: FinetuneOptions) -> float:
    """The learning rate at a place of the run, as a share of its peak: it rises, may stay, and falls to zero.

    In the recipe cpm1 it falls as if the rise took no time, as in the original, and ends above zero.
    """
    warmup, flat = options.warmup or 0.0, options.flat or 0.0
    if progress < warmup:
        return progress / warmup
    falls = max(warmup, flat)
    left = min(1.0, 1.0 - progress + falls if options.recipe == "cpm1" else (1.0 - progress) / (1.0 - falls))
    return left if options.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))
