"""``python -m cpm_gen``."""

import sys

from cpm_gen.cli.main import main

sys.exit(main())
