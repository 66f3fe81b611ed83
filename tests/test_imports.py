"""The package imports without torch where it can; the contract of import-linter (``pyproject.toml``) has the rest."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = (
    "cpm_gen",
    "cpm_gen.errors",
    "cpm_gen.config.resolve",
    "cpm_gen.config.serve_options",
    "cpm_gen.cli.main",
    "cpm_gen.engine.sequence",
    "cpm_gen.sampling.sample",
    "cpm_gen.text.prompt_styles",
    "cpm_gen.text.stop_strings",
    "cpm_gen.text.tokenizer",
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_module_that_starts_the_command_line_does_not_import_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
