"""Training: texts to windows of token ids, and transformers' Trainer over them. Needs the extra ``train``."""

import importlib.util

from cpm_gen.errors import ConfigError

_PACKAGES = ("transformers", "accelerate", "peft", "tensorboard", "matplotlib", "psutil")


def check_packages() -> None:
    """Raise ConfigError, naming what is missing, unless the extra ``train`` is installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}; in the checkout, pip install -c constraints.txt -e '.[train]'"
        )
