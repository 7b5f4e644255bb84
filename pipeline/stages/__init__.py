"""The stages: mask, encode, decode and score; a part in, the same part out."""
