"""chatwright: a ChatGPT of your own, from raw text to a chat page whose feedback makes the next model better."""

__version__ = "0.1.0"
