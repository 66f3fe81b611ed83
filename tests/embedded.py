"""Sizes of the embedded model, from which bounds that tests state follow; an edition may change them."""

from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint

_CHECKPOINT = open_checkpoint(EMBEDDED)
VOCABULARY = _CHECKPOINT.vocabulary
HIDDEN = _CHECKPOINT.hidden
POSITIONS = _CHECKPOINT.positions
LIMIT = POSITIONS - 1  # of the default window, in tokens
