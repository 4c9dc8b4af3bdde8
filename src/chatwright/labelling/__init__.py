"""Labellers: who ranks the answers that reward models learn from."""
