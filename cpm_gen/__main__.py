"""``python -m cpm_gen``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, too, but a working copy runs without pip
    sys.exit(f"cpm-gen needs Python 3.11 or newer; this is {'.'.join(map(str, sys.version_info[:3]))}")

from cpm_gen.cli.main import main

sys.exit(main())
