"""Overpaint's library: dataset-scale image editing, without Ray (see pipeline/README.md)."""

__version__ = "0.2.0"
