"""One module for each file format; each fills :class:`cpm_gen.checkpoints.checkpoint.Checkpoint`."""
