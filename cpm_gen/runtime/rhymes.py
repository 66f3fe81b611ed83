"""The words that may end a line of a text in a form, by the model's probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cpm_gen.config.arguments import whole_number
from cpm_gen.config.options import FORM_SETTINGS, TextOptions
from cpm_gen.config.resolve import generation_options
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.runtime.surroundings import encode_left, encode_part
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.sampling.logprobs import TopCollector
from cpm_gen.text.forms.passage import line_end
from cpm_gen.text.forms.passage_masks import PassageMasks
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.text.prompt_styles import line_end as line_end_ids
from cpm_gen.text.tokenizer import checked_text

if TYPE_CHECKING:
    from torch import Tensor

RHYMES = 20  # words where a caller does not say how many


@dataclass(frozen=True)
class RhymeWord:
    """A character that may end the line, and its natural log-probability after the text before it."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Rhymes:
    """The words, best first.

    words: characters. groups: those of the rhyme book that the line may have; none: it does not rhyme. notes: rhyme words of other lines
    that do not agree.
    """

    words: tuple[RhymeWord, ...]
    groups: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class LastPlace(TopCollector):
    """Collects the log-probabilities of ``ids`` in the last place that is scored: ``logprobs``, float64 ``[ids]``."""

    count: int = 0
    ids: Sequence[int] = ()
    logprobs: list[float] = field(default_factory=list)

    def add(self, logits: Tensor, totals: Tensor) -> None:
        """Replace what was found by the last of the next places."""
        self.logprobs = (logits[-1, list(self.ids)] - totals[-1]).tolist()


@dataclass(frozen=True)
class RhymePlan:
    """What is scored: ``token_ids``, whose last is any; ``place`` gets the probabilities before it. texts: of the ids there."""

    token_ids: tuple[int, ...]
    place: LastPlace
    texts: tuple[str, ...]
    masks: PassageMasks

    def words(self, n: int) -> Rhymes:
        """The ``n`` most probable words, once the tokens were scored."""
        found: dict[str, float] = {}
        for text, logprob in zip(self.texts, self.place.logprobs, strict=True):
            found[text] = float(np.logaddexp(found[text], logprob)) if text in found else logprob  # with and without ▁
        # rounded: the last digits may depend on what else the service scores at the time
        best = sorted(found.items(), key=lambda entry: (-round(entry[1], 3), entry[0]))[:n]
        return Rhymes(
            tuple(RhymeWord(text, logprob) for text, logprob in best), self.masks.groups, self.masks.passage.notes
        )


def rhyme_options(given: Mapping[str, Any]) -> TextOptions:
    """Keyword arguments of :func:`plan_rhymes`: style ("lyric" if none is given) and the form's. Raises ConfigError for others."""
    known = ("style", *FORM_SETTINGS)
    for name in given:
        if name not in known:
            raise ConfigError(f"{name} is not for rhyme words; they take {', '.join(known)}")
    return generation_options({"style": "lyric", **given})[1]


def plan_rhymes(engine: TextEngine, text: str, line: int, options: TextOptions, prompt: str | None = None) -> RhymePlan:
    """Plan the words that may end a line, counted from 1 on with blank lines. Safe to call from any thread.

    Of ``options`` style and the form count. prompt: what stands before the text; None: nothing. Raises InputError for a line that is none
    of the form's, and what is wrong with the form.
    """
    form = requested_form(dataclasses.replace(options, stop=()))
    if form is None:
        raise InputError("rhyme words belong to a form; give form, too")
    passage = line_end(form, checked_text(text), whole_number(line, "line"))
    masks = engine.vocabulary.passage(passage, options.style, ())
    ids, texts = zip(*masks.words(masks.allowed(masks.begin())), strict=True)
    room, style, written = engine.window.limit, options.style, text[: passage.start]
    if not prompt:
        left = encode_left(engine, written, style, room)
    else:  # the prompt is a text of its own, before this one
        own = encode_part(engine, written, style)
        if style == "lyric":
            own = [*line_end_ids(style, engine.vocabulary.tokenizer), *own]
        left = [*encode_left(engine, prompt.rstrip("\n"), style, max(1, room - len(own))), *own][-room:]
    return RhymePlan((*left, ids[0]), LastPlace(ids=ids), texts, masks)


def rhymes(engine: TextEngine, plan: RhymePlan, n: int = RHYMES) -> Rhymes:
    """The ``n`` most probable words, in one pass of the network."""
    n = whole_number(n, "n", 1)
    for _ in engine.scoring(plan.token_ids, top=plan.place):
        pass
    return plan.words(n)
