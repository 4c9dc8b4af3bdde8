"""A finished model for people and programs: an OpenAI-compatible API, the chat page, and the chat in the terminal."""
