"""Run folders, and the files of checkpoints and weights in them."""
