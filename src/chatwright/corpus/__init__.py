"""From raw text to the documents that a model learns from, with a reason for every document left out."""
