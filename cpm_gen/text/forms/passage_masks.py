"""The tokens that a passage of a text in a form allows next."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from cpm_gen.errors import InputError
from cpm_gen.sampling.constraints import Indices
from cpm_gen.text.forms.bans import Around
from cpm_gen.text.forms.bigrams import Bigrams
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Slot
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.line_reader import is_han
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.passage import Passage
from cpm_gen.text.forms.program import Segment, checked_program, with_required
from cpm_gen.text.forms.rhyme_books import rhyme_book
from cpm_gen.text.forms.slot_masks import NONE
from cpm_gen.text.forms.state import RUN, State
from cpm_gen.text.rewriting import Cut


class PassageMasks(FormMasks):
    """A passage over a vocabulary. Raises FormError or InputError where the vocabulary cannot fill it."""

    def __init__(self, passage: Passage, lexicon: Lexicon, bigrams: Bigrams | None = None) -> None:
        form = passage.form
        words = frozenset(word for _, word in passage.begin.words)
        after = itertools.takewhile(is_han, passage.text[passage.end : passage.end + RUN])
        around = Around(passage.begin, "".join(after))
        program = checked_program(
            form,
            _with_required(passage, lexicon, around),
            lexicon,
            passage.settled,
            passage.begin.used | words,
            around,
        )
        super().__init__(form, lexicon, bigrams, program)
        self.passage = passage
        self._known = tuple((label, program.groups.get(label, groups)) for label, groups in passage.settled.items())

    def begin(self) -> State:
        """The state before the first token."""
        passage, free = self.passage, super().begin().free
        if free is not None:
            for c in passage.begin.used:
                free[self._lexicon.containing.get(c, NONE)] = False
        return dataclasses.replace(passage.begin, groups=self._known, free=free)

    @property
    def groups(self) -> tuple[str, ...]:
        """The rhyme groups that the first line's end may have, in the order of the book; none: it does not rhyme."""
        segment = self._segments[self.passage.begin.segment]
        if not segment.rhymes or segment.label is None:
            return ()
        known = self._groups.open(self.begin(), segment.label)
        return tuple(group for group in rhyme_book(self.form.book).groups if group in known)

    def texts(self, state: State) -> tuple[str, ...]:
        """The texts of the passage's segments in a finished state."""
        return state.texts[self.passage.begin.segment :]

    def is_text(self, token: int) -> bool:
        """Whether a token holds characters: it is no sign, and not without width."""
        return token in self._lexicon.texts

    def words(self, ids: Indices) -> Iterable[tuple[int, str]]:
        """The characters of those of the ids that hold some."""
        return ((i, self._lexicon.texts[i]) for i in map(int, ids) if i in self._lexicon.texts)


def _with_required(passage: Passage, lexicon: Lexicon, around: Around) -> tuple[Segment, ...]:
    """The passage's segments with the words that have to stand in it."""
    if not passage.required:
        return passage.segments
    first, count = passage.begin.segment, passage.begin.count
    segments = list(passage.segments)
    slots = segments[first].slots
    taken = (*(Slot("中", "一") for _ in range(count)), *slots[count:])  # no room where the text is written
    segments[first] = dataclasses.replace(segments[first], slots=taken)
    form = dataclasses.replace(passage.form, required=passage.required)
    try:
        segments = list(with_required(form, tuple(segments), lexicon, around))
    except FormError:
        listed = ", ".join(passage.required)
        raise InputError(
            f"{listed} (必含) stands only in the selection, which has no room for it; select more"
        ) from None
    found = segments[first]
    segments[first] = dataclasses.replace(found, slots=(*slots[:count], *found.slots[count:]))
    return tuple(segments)


class PassageReader:
    """Reads the tokens of one text that was written for a passage."""

    def __init__(self, masks: PassageMasks) -> None:
        self._masks = masks
        self._state = masks.begin()
        self._ids: list[int] = []

    def push(self, token: int) -> bool:
        """Take the next token; True once the passage is complete."""
        if not self._masks.finished(self._state):
            self._state = self._masks.advance(self._state, token)
            self._ids.append(token)
        return self._masks.finished(self._state)

    def cut(self) -> Cut | None:
        """The passage; None if it is not complete, or the text would have a fault that it does not have now."""
        masks, ids = self._masks, self._ids
        if not masks.finished(self._state):
            return None
        while masks.passage.marked and not masks.is_text(ids[-1]):
            ids = ids[:-1]
        text = masks.passage.joined(masks.texts(self._state))
        return None if text is None else Cut(tuple(ids), text)
