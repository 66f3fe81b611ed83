"""What tests take from the embedded model instead of stating it, as an edition changes it: its sizes, and seeds for a certain end."""

from collections.abc import Callable
from typing import Any

from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.llm import LLM
from cpm_gen.outputs import Completion

_CHECKPOINT = open_checkpoint(EMBEDDED)
VOCABULARY = _CHECKPOINT.vocabulary
HIDDEN = _CHECKPOINT.hidden
POSITIONS = _CHECKPOINT.positions
PARAMETERS = ModelSize(_CHECKPOINT.layers, HIDDEN, 1, VOCABULARY, POSITIONS).parameters  # of any number of heads
LIMIT = POSITIONS - 1  # of the default window, in tokens


def seed_of(llm: LLM, prompt: str, wanted: Callable[[Completion], bool], **options: Any) -> int:
    """The first seed whose completion is as ``wanted``: what a seed gives depends on the weights."""
    return next(seed for seed in range(1, 200) if wanted(llm.generate(prompt, seed=seed, **options)))


def ended(completion: Completion) -> bool:
    """Whether the text ended before its length."""
    return completion.finish_reason == "stop"
