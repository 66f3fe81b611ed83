"""``cpm-gen serve``."""

from __future__ import annotations

import dataclasses
import sys

from cpm_gen.cli.parser import install_hint
from cpm_gen.config.resolve import Settings
from cpm_gen.translation import localized


def serve(settings: Settings) -> int:
    """Serve HTTP until a signal; the other ranks of a launcher execute rank 0's plans."""
    from cpm_gen.cli.write import follows

    # a follower makes room for as many sequences as rank 0 does
    if follows(dataclasses.replace(settings, text=dataclasses.replace(settings.text, n=settings.model.batch))):
        return 0
    try:
        from cpm_gen.server.main import serve as run
    except ModuleNotFoundError as error:
        raise install_hint(error.name, "serve", "the service") from None
    return run(settings)


def new_key(name: str) -> int:
    """Print a key (standard error) and its line for the key file (standard output)."""
    from cpm_gen.serving.api_keys import make_key

    key, line = make_key(name)
    sys.stderr.write(localized(f"the key, shown once: {key}") + "\n")
    sys.stdout.write(line + "\n")
    return 0
