"""What the models can do: the table of checks, sample conversations, and the report that tells the whole road."""
