"""Everything cpm-gen raises for a user's mistake or a broken world.

::

    CpmGenError
    ├── ConfigError       a setting: flag, environment variable, YAML key or keyword argument
    ├── InputError        a text or token ids that cannot be used, or a file that cannot be read or written
    ├── TokenizerError    vocabulary files: missing, damaged, or not the model's
    ├── CheckpointError   a checkpoint: missing, damaged, inconsistent, or impossible at this degree
    ├── NumericsError     the network gave NaN: a damaged checkpoint, or fp16 overflowing
    └── RankError         a tensor-parallel rank died or could not be started

Each message names what was wrong, where, and what would be right. The command line prints it as one line and exits with
``exit_status``.
"""


class CpmGenError(Exception):
    """Root of the tree."""

    exit_status = 2


class ConfigError(CpmGenError, ValueError):
    """A setting is unknown, malformed or impossible."""


class InputError(CpmGenError, ValueError):
    """A prompt, token ids or a file given by the user cannot be used."""


class TokenizerError(CpmGenError):
    """Vocabulary files are missing, damaged, or do not fit the checkpoint."""


class CheckpointError(CpmGenError):
    """A checkpoint is missing, damaged, inconsistent or cannot be cut as asked."""


class NumericsError(CpmGenError):
    """Logits are not numbers."""

    exit_status = 1


class RankError(CpmGenError):
    """A tensor-parallel rank died, or the ranks could not be started."""

    exit_status = 1
