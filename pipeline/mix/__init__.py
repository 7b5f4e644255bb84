"""Mixes originals and their edits into training shards, with each source image in one split."""
