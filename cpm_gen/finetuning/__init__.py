"""Training: texts to windows of token ids, and transformers' Trainer over them. Needs the extra ``train``."""

import importlib.util

_PACKAGES = ("transformers", "accelerate", "peft", "tensorboard", "matplotlib", "psutil")


def missing_package() -> str | None:
    """The first package of the extra ``train`` that is not installed."""
    return next((name for name in _PACKAGES if importlib.util.find_spec(name) is None), None)
