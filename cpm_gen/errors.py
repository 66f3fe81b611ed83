"""The errors that cpm-gen raises for a user's mistake, damaged files, or ranks that fail.

::

    CpmGenError
    ├── ConfigError       a setting: flag, environment variable, YAML key or keyword argument
    ├── InputError        a text, token ids or a file given by the user that cannot be used
    ├── TokenizerError    vocabulary files: missing, damaged, or of another model
    ├── DownloadError     a file could not be downloaded, or is not what it should be
    ├── CheckpointError   a checkpoint: missing, damaged, inconsistent, or impossible at this degree
    ├── NumericsError     the network gave NaN: a damaged checkpoint, or fp16 overflowing
    ├── RankError         a tensor-parallel rank died or could not be started
    └── ReplicaError      a process of a batch died, or could not load the model

Each message names what was wrong, where, and what would be right. The command line prints it as one line and exits with
``exit_status``.
"""


class CpmGenError(Exception):
    """Base class of all errors."""

    exit_status = 2


class ConfigError(CpmGenError, ValueError):
    """A setting is unknown, malformed or impossible."""


class InputError(CpmGenError, ValueError):
    """A prompt, token ids or a file given by the user cannot be used."""


class TokenizerError(CpmGenError):
    """Vocabulary files are missing, damaged, or do not fit the checkpoint."""


class DownloadError(CpmGenError):
    """A file could not be downloaded, or is not the one that was published."""


class CheckpointError(CpmGenError):
    """A checkpoint is missing, damaged or inconsistent, or cannot be cut for the number of ranks asked for."""


class NumericsError(CpmGenError):
    """Logits are NaN or infinite."""

    exit_status = 1


class RankError(CpmGenError):
    """A tensor-parallel rank died, or the ranks could not be started."""

    exit_status = 1


class ReplicaError(CpmGenError):
    """A process of a batch died, or could not load the model. exit_status: as for the error that the process met."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch, on any device, was given no memory."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory")
    )
