"""The decoder: configs and presets, masks, the network with its cache, heads, Hugging Face folders."""
