"""Rewrite a passage: candidates for a selection of a text, ranked by how well the text goes on after them.

:func:`plan_rewrite` decides what is written and scored; the candidates are ``n`` samples of one prompt, the text to the left. Each is cut
where it fits (:mod:`cpm_gen.text.rewriting`) and scored together with the beginning of the text to the right. The service runs the same
plan through its queue.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpm_gen.config.arguments import whole_number
from cpm_gen.config.fields import declared
from cpm_gen.config.options import FORM_SETTINGS, SamplingParams, StyleName, TextOptions
from cpm_gen.config.resolve import generation_options
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.surroundings import CHARS_A_TOKEN, encode_after, encode_left, encode_part
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.forms.passage import passage
from cpm_gen.text.forms.passage_masks import PassageMasks, PassageReader
from cpm_gen.text.forms.requested import compiled, requested_form
from cpm_gen.text.rewriting import Cut, Cutter, Goal, goal, quote_ids, trimmed, with_signs_of
from cpm_gen.text.tokenizer import checked_text

SAMPLES = 8  # candidates where a caller does not say how many
RIGHT_TOKENS = 64  # of the text to the right that are scored; what stands further off hardly depends on the candidate
OWN_WEIGHT = 0.1  # of a candidate's own score in its total; the samples already follow that likelihood
ROUNDS = 4  # most times that n samples are drawn, where too few of them fit


Reader = Cutter | PassageReader  # of the tokens of one sample
NOT_OPTIONS = frozenset(declared(TextOptions)) - {"style", "seed", "n", *FORM_SETTINGS} | {
    "min_new_tokens"
}  # settings without a use here


@dataclass(frozen=True)
class Candidate:
    """A passage in its place. Scores are mean natural log-probabilities a token.

    text: what replaces the selection, in the signs of the text around it. token_ids: as it was scored.
    own: of its tokens after the text to the left. right: of the next tokens of the text after it; None where the text ends.
    total: what ranks: ``right`` and a tenth of ``own``, or ``own`` alone where the text ends.
    """

    text: str
    token_ids: tuple[int, ...]
    own: float
    right: float | None
    total: float


@dataclass(frozen=True)
class Rewrites:
    """The candidates, best first.

    start, end: the characters of the text that a candidate replaces: the selection without the white space at its edges.
    selection: the passage that stands there now; None for an insertion. drawn: samples that were written; those that fit no length or
    end, and those equal to another one or to the selection, are not among the candidates. right_tokens: how many were scored.
    seed: gives the same candidates again. notes: in a form, rhyme words of other lines that do not agree.
    """

    candidates: tuple[Candidate, ...]
    selection: Candidate | None
    start: int
    end: int
    drawn: int
    right_tokens: int
    seed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewritePlan:
    """What is written and scored for a selection.

    left, right: token ids of what the network sees on both sides. goal: what a candidate must be; in a form, its slots.
    sampling, options: of the samples, with a seed.
    """

    text: str
    start: int
    end: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    core_ids: tuple[int, ...]
    head_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]
    goal: Goal | PassageMasks
    sampling: SamplingParams
    options: TextOptions

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the samples continue."""
        return self.left + self.head_ids

    def round(self, at: int) -> TextOptions:
        """The options of the samples drawn in round ``at``, from 0 on; each round has a seed of its own."""
        assert self.options.seed is not None
        return dataclasses.replace(self.options, seed=(self.options.seed + at * 2**53) % 2**64)

    @property
    def constraint(self) -> PassageMasks | None:
        """What the samples have to fulfil, in a form."""
        return self.goal if isinstance(self.goal, PassageMasks) else None

    def cutter(self, engine: TextEngine) -> Reader:
        """A new reader of one sample's tokens."""
        if isinstance(self.goal, PassageMasks):
            return PassageReader(self.goal)
        return Cutter(self.goal, engine.vocabulary.detokenizer(self.options.style), self.head_ids, self.tail_ids)

    def collect(self, engine: TextEngine, cutters: Iterable[Reader], cuts: dict[str, Cut]) -> bool:
        """Add the candidates of a round to ``cuts``, by their text; True once there are ``n`` different ones."""
        for cutter in cutters:
            cut = self._cut(engine, cutter)
            if cut is None or len(cuts) == self.options.n:
                continue
            shown = self._shown(engine, cut.text)
            if shown != self.text[self.start : self.end]:
                cuts.setdefault(shown, cut)
        return len(cuts) == self.options.n

    def _cut(self, engine: TextEngine, cutter: Reader) -> Cut | None:
        if isinstance(cutter, PassageReader):
            return cutter.cut()
        vocabulary = engine.vocabulary
        return cutter.cut(vocabulary.tokenizer, vocabulary.detokenizer(self.options.style))

    def _shown(self, engine: TextEngine, candidate: str) -> str:
        if isinstance(self.goal, PassageMasks):
            return candidate  # its signs are those of the text
        return with_signs_of(candidate, self.text, self.start, self.end, engine.vocabulary.tokenizer)

    def scored(self, cuts: Iterable[Cut]) -> list[list[int]]:
        """Token ids to score: the selection's, unless it is empty, and those of each candidate, each between left and right."""
        cores = [self.core_ids] if self.core_ids else []
        return [[*self.left, *core, *self.right] for core in (*cores, *(cut.token_ids for cut in cuts))]

    def rank(self, engine: TextEngine, cuts: Iterable[Cut], scores: Sequence[Sequence[float]], drawn: int) -> Rewrites:
        """The candidates in order, of ``drawn`` samples.

        scores: for each of :meth:`scored`, the log-probabilities from the second token on.
        """
        now = [Cut(self.core_ids, self.text[self.start : self.end])] if self.core_ids else []
        found = [self._candidate(engine, cut, row) for cut, row in zip([*now, *cuts], scores, strict=True)]
        selection = dataclasses.replace(found.pop(0), text=now[0].text) if now else None
        assert self.options.seed is not None
        return Rewrites(
            # rounded: the last digits may depend on what else the service scores at the time
            candidates=tuple(sorted(found, key=lambda c: -round(c.total, 3))),
            selection=selection,
            start=self.start,
            end=self.end,
            drawn=drawn,
            right_tokens=len(self.right),
            seed=self.options.seed,
            notes=self.goal.passage.notes if isinstance(self.goal, PassageMasks) else (),
        )

    def _candidate(self, engine: TextEngine, cut: Cut, logprobs: Sequence[float]) -> Candidate:
        first = len(self.left) - 1  # the first logprob is the second token's
        last = first + len(cut.token_ids)
        own = math.fsum(logprobs[first:last]) / len(cut.token_ids)
        right = math.fsum(logprobs[last:]) / len(self.right) if self.right else None
        total = own if right is None else right + OWN_WEIGHT * own
        return Candidate(self._shown(engine, cut.text), cut.token_ids, own, right, total)


def rewrite_options(given: Mapping[str, Any]) -> tuple[SamplingParams, TextOptions]:
    """Keyword arguments of a rewrite: those of sampling, style, seed and n. Raises ConfigError for others."""
    for name in given:
        if name in NOT_OPTIONS:
            raise ConfigError(f"{name} is not for a rewrite, whose length and end are the selection's; leave it out")
    return generation_options(given)


def plan_rewrite(
    engine: TextEngine, text: str, start: int, end: int, sampling: SamplingParams, options: TextOptions
) -> RewritePlan:
    """Plan ``options.n`` candidates for ``text[start:end]``. Safe to call from any thread.

    Of ``options`` style, n, seed and the form count; a length and stop strings do not. In a form the selection is one or more lines, or
    parts of lines, whose slots the candidates fill. The text to the left is cut to what the window shows beside the candidate and the text
    to the right; the window's ``keep`` first tokens stay. Raises InputError for an empty text, a selection outside it, of white space, too
    long for the window, or that a form leaves no choice for, FormError, and TokenizerError without a vocabulary.
    """
    text = checked_text(text)
    start, end = whole_number(start, "start"), whole_number(end, "end")
    if not text.strip():
        raise InputError("the text is empty; there is nothing to rewrite")
    start, end = trimmed(text, start, end)
    limit, style = engine.window.limit, options.style
    masks = _masks(engine, text, start, end, sampling, options)
    if masks is None:
        wanted: Goal | PassageMasks
        wanted = free = goal(text, start, end)
        high, head, tail = free.high, free.head, free.tail
        sampling = dataclasses.replace(sampling, banned_ids=(*sampling.banned_ids, *_banned(engine, free, style)))
    else:
        wanted, start, end = masks, masks.passage.start, masks.passage.end
        high, head, tail = masks.passage.characters + len("".join(masks.passage.joints)), "", ""
    core = text[start:end]
    near = text[max(0, start - 500) : start] + core[:500] + text[end : end + 500]
    rate = max(1.0, len(encode_part(engine, near, style)) / len(near))
    most = math.ceil(1.25 * rate * high) + 4
    if most > limit // 2:
        chars = int((limit // 2 - 4) / (1.25 * 1.3 * rate))
        raise InputError(
            f"the selection has {len(core):,} characters, too many for the window of {limit:,} tokens; "
            f"select at most about {max(1, chars):,}"
        )
    core_ids = encode_after(engine, text[:start], core, style)
    head_ids = encode_after(engine, text[:start], head, style)
    tail_ids = encode_after(engine, core or text[:start], tail, style)
    right = encode_after(engine, core or text[:start], text[end : end + CHARS_A_TOKEN * RIGHT_TOKENS], style)
    right = right[: min(RIGHT_TOKENS, limit // 4)]
    room = max(1, limit - max(most + len(head_ids) + len(tail_ids), len(core_ids)) - len(right))
    left = encode_left(engine, text[:start], style, room)
    sampling = dataclasses.replace(sampling, min_new_tokens=0)
    seed = secrets.randbits(48) if options.seed is None else options.seed  # a JSON number holds 48 bits exactly
    options = TextOptions(style=style, n=options.n, seed=seed, max_new_tokens=most, ignore_eos=True)
    return RewritePlan(
        text,
        start,
        end,
        tuple(left),
        tuple(right),
        tuple(core_ids),
        tuple(head_ids),
        tuple(tail_ids),
        wanted,
        sampling,
        options,
    )


def _masks(
    engine: TextEngine, text: str, start: int, end: int, sampling: SamplingParams, options: TextOptions
) -> PassageMasks | None:
    """The slots of a selection in a form; None without one."""
    form = requested_form(dataclasses.replace(options, stop=(), keep_lines=()))
    if form is None:
        return None
    vocabulary, banned = engine.vocabulary, sampling.banned_ids
    return compiled(form, lambda written: vocabulary.passage(passage(written, text, start, end), options.style, banned))


def rewrite(engine: TextEngine, plan: RewritePlan) -> Rewrites:
    """Write the candidates, score and rank them."""
    cuts: dict[str, Cut] = {}
    drawn = 0
    for at in range(ROUNDS):
        drawn += plan.options.n
        if plan.collect(engine, _write(engine, plan, plan.round(at)), cuts):
            break
    scores = [[p for part in engine.scoring(ids) for p in part] for ids in plan.scored(cuts.values())]
    return plan.rank(engine, cuts.values(), scores, drawn)


def _write(engine: TextEngine, plan: RewritePlan, options: TextOptions) -> list[Reader]:
    """Write the samples of a round, each as far as its cut needs."""
    cutters = [plan.cutter(engine) for _ in range(options.n)]
    ready: deque[Chunk] = deque()
    requests = engine.requests([plan.prompt], plan.sampling, options, constraint=plan.constraint)
    streams = engine.begin(requests, options, ready)
    try:
        while not all(stream.done for stream in streams):
            engine.step()
            if failure := next((s.generation.failure for s in streams if s.generation.failure), None):
                raise failure
            while ready:
                chunk = ready.popleft()
                done = [cutters[chunk.place].push(i) for i in chunk.token_ids]
                if any(done) and not streams[chunk.place].done:
                    streams[chunk.place].cancel()
    finally:
        engine.end(streams)
    return cutters


def _banned(engine: TextEngine, wanted: Goal, style: StyleName) -> list[int]:
    """Ids that no candidate holds: ends of a text; and line breaks, quotes and brackets where the selection has none."""
    tokenizer = engine.vocabulary.tokenizer
    detokenizer = engine.vocabulary.detokenizer(style)
    breaks = {i for i in tokenizer.boundary_ids("sentence") or () if "\n" in detokenizer.alone(i)}
    banned = set(tokenizer.breaks - breaks)
    if not wanted.lines and wanted.ending != "line":
        banned |= breaks
    if not wanted.paired:
        banned |= quote_ids(tokenizer)
    return sorted(banned)
