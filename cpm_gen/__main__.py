"""``python -m cpm_gen``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, too, but a working copy runs without pip
    from cpm_gen.translation import localized

    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(localized(f"cpm-gen needs Python 3.11 or newer; this is {version}"))

from cpm_gen.cli.main import main

sys.exit(main())
