"""Makes a model's folder of a checkpoint in one file."""
