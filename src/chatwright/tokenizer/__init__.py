"""Byte-level BPE, the chat template, and the token shards that pretraining reads."""
