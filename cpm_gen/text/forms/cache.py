"""The forms in use on a model, compiled once for all texts."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from cpm_gen.text.forms.bigrams import Bigrams
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.passage import Passage
from cpm_gen.text.forms.passage_masks import PassageMasks
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer

_LEXICONS = 4  # of a vocabulary of 30,000: a few MB and a second of work each
_FORMS = 16  # of a vocabulary of 30,000: each at most 8 MiB of masks, and 45 MiB of tables of its lookahead


class FormCache:
    """Lexicons and compiled forms, the latest used ones. Safe to use from several threads.

    bigrams: reads the vocabulary's table when the first form is compiled; None: there is none.
    """

    def __init__(self, bigrams: Callable[[], Bigrams | None] = lambda: None) -> None:
        self._bigrams = functools.cache(bigrams)
        self._lock = threading.Lock()
        self._lexicons: OrderedDict[tuple[bool, frozenset[int]], Lexicon] = OrderedDict()
        self._masks: OrderedDict[tuple[int, Form], tuple[Lexicon, FormMasks]] = OrderedDict()

    def masks(
        self, form: Form, tokenizer: TextTokenizer, lines: Detokenizer, vocabulary: int, banned: Sequence[int]
    ) -> FormMasks:
        """The compiled form. lines: the detokenizer of the text's style. Raises FormError."""
        with self._lock:
            lexicon = self._lexicon(tokenizer, lines, vocabulary, banned)
            found = self._masks.get((id(lexicon), form))
            if found is None:
                found = self._masks[id(lexicon), form] = (
                    lexicon,
                    FormMasks(form, lexicon, self._bigrams()),
                )
            self._masks.move_to_end((id(lexicon), form))
            while len(self._masks) > _FORMS:
                self._masks.popitem(last=False)
            return found[1]

    def passage(
        self, passage: Passage, tokenizer: TextTokenizer, lines: Detokenizer, vocabulary: int, banned: Sequence[int]
    ) -> PassageMasks:
        """The compiled passage, which is not kept. Raises InputError."""
        with self._lock:
            lexicon = self._lexicon(tokenizer, lines, vocabulary, banned)
            return PassageMasks(passage, lexicon, self._bigrams())

    def _lexicon(self, tokenizer: TextTokenizer, lines: Detokenizer, vocabulary: int, banned: Sequence[int]) -> Lexicon:
        reads_lines = lines.can_show("\n")
        key = reads_lines, frozenset(banned)
        lexicon = self._lexicons.get(key)
        if lexicon is None:
            lexicon = self._lexicons[key] = Lexicon(tokenizer, reads_lines, vocabulary, frozenset(banned))
        self._lexicons.move_to_end(key)
        while len(self._lexicons) > _LEXICONS:
            self._lexicons.popitem(last=False)
        return lexicon
