"""What a run costs, how large its pools are, and warnings before it starts."""
