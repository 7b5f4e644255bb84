"""Originals and their edits as training shards, in splits that no source image crosses."""
