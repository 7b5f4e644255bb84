"""Packs folders of images, with captions, classes or boxes, into WebDataset shards."""
