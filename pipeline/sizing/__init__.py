"""What a run costs, how large its pools are, and what to warn of."""
