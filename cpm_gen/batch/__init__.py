"""Many prompts in a file, many texts in another: ``cpm-gen batch``."""
