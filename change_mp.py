"""Change a checkpoint's model-parallel size: ``python change_mp.py /path/to/CPM 4`` writes ``/path/to/CPM_MP4``.

The same as ``cpm-gen reshard``, under the name of the original's script.
"""

import sys

from cpm_gen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reshard", *sys.argv[1:]]))
