"""What a model writes while it learns, to be read by a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world

SAMPLES = "samples.jsonl"
LENGTH = 48  # tokens of a sample


def write_samples(out: Path, step: int, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    """Append the likeliest continuation of each prompt to ``samples.jsonl``; lines of later steps are dropped."""
    if not world.is_first():
        return
    training = model.training
    model.eval()
    ids = [tokenizer.encode(prompt) or [tokenizer.end_of_text] for prompt in prompts]
    completions = Engine(model, tokenizer, batch_size=len(ids)).generate(ids, [Sampling(LENGTH, 0.0)] * len(ids))
    model.train(training)
    path = out / SAMPLES
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in before if json.loads(line)["step"] < step]
    for prompt, completion in zip(prompts, completions, strict=True):
        record = {"step": step, "prompt": prompt, "text": tokenizer.decode(completion.tokens)}
        kept.append(json.dumps(record, ensure_ascii=False))
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
