"""Metrics of images and features in plain numpy: no torch, no files, no networks."""
