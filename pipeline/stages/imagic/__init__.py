"""Imagic's form of the stages encode and decode."""
