"""What this machine can run: what ``cpm-gen doctor`` prints. Works without torch, and where a library ends the process."""
