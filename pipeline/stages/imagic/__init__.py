"""Imagic in the stages encode and decode."""
