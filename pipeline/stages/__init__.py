"""The stages mask, encode, decode and score. Each takes a part and returns the same part."""
