"""How likely a line can still be completed after a token: the probability under bigrams, summed over all fillings that fit.

``h(token, place)`` is the probability that tokens drawn by the bigrams fill the slots from ``place`` to the next separator, rhyme included,
and that the separator follows. A recursion from the line's end gives it for all tokens at once. The rest of a line is computed once for
all texts of a form. Its logarithm, times one of ``STRENGTH``, is added to the logits of the allowed tokens, so that a line does not run
into a place where little fits (the principle of GeLaTo, Zhang et al. 2023, with bigrams as the model).

Values are rounded to 1/1024 nat: a machine that adds or takes logarithms in another way gives the same.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpm_gen.sampling.constraints import Floats32, Indices
from cpm_gen.text.forms.bigrams import Bigrams, Floats
from cpm_gen.text.forms.form import Slot, Tone
from cpm_gen.text.forms.lexicon import LONGEST, Lexicon, Sounding
from cpm_gen.text.forms.program import Program, Segment
from cpm_gen.text.forms.rhyme_groups import RhymeGroups
from cpm_gen.text.forms.slot_masks import SlotMasks
from cpm_gen.text.forms.state import State

# Bigrams know a word's neighbours and not the poem, so over several slots they tell places apart less than the model does; at the last
# slot they are right. By the slots that are left of a segment, the last value for all above: likelier verse than one value for all.
STRENGTH = (1.0, 1.5, 2.0)
_UNIT = 1024  # parts of a nat
_LEAST = -(1 << 15)  # 32 nats
_VECTORS = 16  # of the recursion: what a line needs while its tables are made
_BYTES = 8 << 20  # of the tables that are kept; the vectors beside them are 37 MB of a vocabulary of 30,000
_BIASES = 16  # tables that are kept as floats: those of a step's texts


@dataclass(frozen=True)
class Stretch:
    """The rest of a segment.

    slots: its most characters; least: its fewest. source: another segment copies its text. groups: its rhyme may be one of them;
    None: it does not rhyme. opens: its rhyme word decides the group of later words, of this tone. sign: the separator that follows, "" if
    none does.
    """

    slots: tuple[Slot, ...] = ()
    least: int = 0
    source: bool = False
    groups: frozenset[str] | None = None
    opens: Tone | None = None
    sign: str = ""

    def after(self, length: int) -> Stretch:
        """Drop the first ``length`` slots."""
        slots, opens = self.slots[length:], self.opens
        if not slots:
            return Stretch(groups=self.groups if opens else None, opens=opens, sign=self.sign)
        return Stretch(slots, max(0, self.least - length), self.source, self.groups, opens, self.sign)


Line = tuple[Stretch, ...]  # up to the next separator
Chances = tuple[Floats, int]  # for each token a probability, divided by 2 to the number beside it


class Lookahead:
    """The lookahead of one form. For one thread at a time."""

    def __init__(
        self,
        lexicon: Lexicon,
        sounding: Sounding,
        bigrams: Bigrams,
        program: Program,
        groups: RhymeGroups,
        slots: SlotMasks,
    ) -> None:
        self._lexicon = lexicon
        self._sounding = sounding
        self._bigrams = bigrams
        self._segments = program.segments
        self._groups = groups
        self._slots = slots
        self._of_length = [(lexicon.length == length).nonzero()[0] for length in range(LONGEST + 1)]
        self._lines = functools.lru_cache(4096)(self._find_line)
        self._tables = functools.lru_cache(max(64, _BYTES // (2 * lexicon.size)))(self._find_table)
        self._biases = functools.lru_cache(_BIASES)(lambda line: self._tables(line) * np.float32(1 / _UNIT))
        self._followed = functools.lru_cache(64)(self._find_followed)
        self._final = functools.lru_cache(64)(self._find_final)
        self._chances: OrderedDict[Line, Chances] = OrderedDict()
        # of the segments up to the next separator: their labels, and segments whose last character they repeat
        self._ahead = [self._until_sign(at) for at in range(len(self._segments))]

    def bias(self, state: State, allowed: Indices) -> Floats32 | None:
        """What to add to the logits of the allowed ids, float32; only differences mean something. None: nothing."""
        if state.segment == len(self._segments) or state.end >= 0:
            return None
        labels, repeated = self._ahead[state.segment]
        groups = tuple((label, self._groups.open(state, label)) for label in labels)
        # what is not known yet counts as any character
        words = tuple((at, state.texts[at][-1]) for at in repeated if at < len(state.texts))
        line = self._lines(state.segment, state.count, groups, words)
        if not line:
            return None
        bias: Floats32 = self._biases(line).take(allowed)
        return bias

    def _until_sign(self, at: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        labels, repeated = [], []
        for segment in self._segments[at:]:
            if segment.copies is not None:  # its text is known, or depends on this one
                break
            labels += [segment.label] if segment.rhymes and segment.label else []
            repeated += [segment.same] if segment.same is not None else []
            if segment.ends:
                break
        return tuple(dict.fromkeys(labels)), tuple(repeated)

    def _find_line(
        self, at: int, count: int, groups: tuple[tuple[str, frozenset[str]], ...], words: tuple[tuple[int, str], ...]
    ) -> Line:
        """What is left up to the next separator, over word boundaries."""
        line = []
        open_groups, last_words = dict(groups), dict(words)
        for number, segment in enumerate(self._segments[at:], at):
            if segment.copies is not None:
                break
            slots = segment.slots[count:]
            if segment.same is not None and segment.same in last_words:
                slots = (*slots[:-1], Slot("中", last_words[segment.same]))
            own = open_groups.get(segment.label or "") if segment.rhymes else None
            opens = slots[-1].tone if own and len(own) > 1 and self._rhymes_later(segment, number) else None
            sign = segment.ends[0] if segment.ends else ""
            line.append(Stretch(slots, max(0, segment.least - count), segment.source, own, opens, sign))
            if sign:
                break
            count = 0
        return tuple(line)

    def _rhymes_later(self, segment: Segment, number: int) -> bool:
        return any(s.rhymes and s.label == segment.label for s in self._segments[number + 1 :])

    def _find_table(self, line: Line) -> NDArray[np.int16]:
        """The logarithms for each token that comes next, in parts of a nat, the greatest 0."""
        size, first = self._lexicon.size, line[0]
        logs = np.full(size, -np.inf)

        def put(ids: Indices, found: Chances) -> None:
            with np.errstate(divide="ignore"):
                logs[ids] = np.log(found[0][ids]) + found[1] * math.log(2)

        for length in range(1, min(LONGEST, len(first.slots)) + 1):
            put(self._of_length[length], self._chance(_after(line, length)))
        put(self._lexicon.zero, self._chance(line))
        best = logs[self._fitting(first)].max(initial=-np.inf)
        if first.least == 0 and first.sign:  # a sign leaves nothing to complete
            logs[self._lexicon.signs[first.sign]] = 0.0
            best = max(best, 0.0)
        if best == -np.inf:
            return np.zeros(size, dtype=np.int16)
        strength = STRENGTH[min(len(first.slots), len(STRENGTH)) - 1]
        parts: NDArray[np.float64] = np.rint((strength * (logs - best)).clip(_LEAST / _UNIT, 0) * _UNIT)
        return parts.astype(np.int16)

    def _fitting(self, stretch: Stretch) -> NDArray[np.bool_]:
        number = self._slots.number(stretch.slots, stretch.source)
        return self._slots.fitting(number, stretch.groups if len(stretch.slots) <= LONGEST else None).mask

    def _chance(self, line: Line) -> Chances:
        """The probability to complete the line after each token."""
        found = self._chances.get(line)
        if found is None:
            for length in range(len(line[0].slots) - 1, LONGEST, -1):  # from the end: a long line would nest deeply
                self._chance(_after(line, length))
            chance, exponent = self._completion(line)
            shift = math.frexp(chance.max())[1]
            found = self._chances[line] = np.ldexp(chance, -shift), exponent + shift
            while len(self._chances) > _VECTORS:
                self._chances.popitem(last=False)
        return found

    def _completion(self, line: Line) -> Chances:
        first = line[0]
        if not first.slots:
            chance, exponent = self._chance(line[1:]) if len(line) > 1 else (np.ones(self._lexicon.size), 0)
            return chance * self._final(first), exponent
        lengths = range(1, min(LONGEST, len(first.slots)) + 1)
        parts = [(self._of_length[length], *self._chance(_after(line, length))) for length in lengths]
        most = max(exponent for *_, exponent in parts)
        weights = np.zeros(self._lexicon.size)
        for ids, chance, exponent in parts:
            weights[ids] = np.ldexp(chance[ids], exponent - most)
        found = self._bigrams.expected(weights * self._fitting(first))
        if first.least == 0 and first.sign:  # the line may end here, too
            found += np.ldexp(self._final(Stretch(groups=first.groups, opens=first.opens, sign=first.sign)), -most)
        for i in map(int, self._lexicon.zero):  # a token without width may come between
            found += self._followed((i,)) * found[i]
        return found, most

    def _find_final(self, stretch: Stretch) -> Floats:
        """For each token, as the last of a stretch: the probability that the separator follows, times what its rhyme is worth."""
        found = np.ones(self._lexicon.size)
        if stretch.sign:
            found = self._followed(tuple(self._lexicon.signs[stretch.sign].tolist())).copy()
        if stretch.groups is not None:
            found *= self._worth(stretch.groups, stretch.opens)
        return found

    def _find_followed(self, ids: tuple[int, ...]) -> Floats:
        """For each token, the probability that one of ``ids`` follows."""
        weights = np.zeros(self._lexicon.size)
        weights[list(ids)] = 1.0
        return self._bigrams.expected(weights)

    def _worth(self, groups: frozenset[str], opens: Tone | None) -> Floats:
        """For each token as a rhyme word: 0 outside the groups; where it decides the group of later words, their share of all."""
        found = np.zeros(self._lexicon.size)
        endings = [(tone, g, ids) for (tone, g), ids in self._sounding.ending.items() if g in groups]
        shares = dict.fromkeys(groups, 0.0 if opens else 1.0)
        if opens:
            for tone, group, ids in endings:
                if opens in ("中", tone):
                    shares[group] += float(self._bigrams.alone[ids].sum())
        for _, group, ids in endings:
            found[ids] += shares[group] if opens else 1.0
        return found


def _after(line: Line, length: int) -> Line:
    """Drop ``length`` slots of the line's first stretch."""
    return (line[0].after(length), *line[1:])
