"""Change a checkpoint's model-parallel size: ``python change_mp.py /path/to/CPM 4`` writes ``/path/to/CPM_MP4``.

The same as ``cpm-gen reshard``, under the name of the original's script.
"""

import runpy
import sys

if __name__ == "__main__":
    sys.argv[1:1] = ["reshard"]
    runpy.run_module("cpm_gen", run_name="__main__")
