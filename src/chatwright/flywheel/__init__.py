"""Rounds: answers of the newest policy, comparisons of them, the next reward model, the next policy, a match."""
