"""``python -m cpm_gen``."""

import sys

from cpm_gen.cli import main

sys.exit(main())
