"""Generation beside its peers, in one run and interleaved: transformers' generate, and llama.cpp on the same GGUF file.

Each side answers the same prompts greedily with the same number of tokens. Prefill and decoding are timed apart: a run
that answers with one token is subtracted from a run that answers with all. Figures are medians of rounds, ratios
medians of the rounds' own ratios: neighbours in time share the machine's mood.

Example: python benchmarks/generate_vs_peers.py --model gpt2 --batches 1 4 16 64 --rounds 3
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model
from chatwright.model.presets import preset
from chatwright.tokenizer.decoding import ByteTable, TextStream
from chatwright.training.runtime import best_rate, matmul_rate, prepare
from measure import outcome, result, tensor_bytes

OURS = ("bfloat16", "int8", "int8-dynamic", "int4")
PROMPT, ANSWER = 64, 64  # tokens
PREFILL = 512
# How many times as fast as transformers: one answer in bfloat16 and at its best, more at their best, a prompt.
TARGETS = {(1, "bfloat16"): 1.4, (1, "best"): 3.5, (16, "best"): 2.5, (64, "best"): 2.5, "prefill": 1.5}
LLAMA_TARGETS = {1: 0.9, 16: 1.0}

Generate = Callable[[Sequence[list[int]], int], None]


class AnyTokenizer:
    """Stands in for a tokenizer of so many ids, each a letter: random weights say nothing worth reading."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.stops, self.pad = vocab_size, frozenset({0}), 0

    def stream(self) -> TextStream:
        return TextStream(ByteTable([b"a"] * self.vocab_size, b"", b""))


@dataclass
class Side:
    """A peer: how it generates, the bytes of weights that a step reads and that are kept, and what each round took.

    steps, prefills: seconds of a step of decoding, and of a prompt, round by round.
    """

    name: str
    version: str
    generate: Generate
    weight_bytes: float
    kept_bytes: float
    steps: list[float] = field(default_factory=list)
    prefills: list[float] = field(default_factory=list)

    def measure(self, prompts: Sequence[list[int]], long: Sequence[list[int]] | None) -> None:
        """One round."""
        first, whole = timed(self, prompts, 1), timed(self, prompts, ANSWER)
        self.steps.append((whole - first) / (ANSWER - 1))
        if long is not None:
            self.prefills.append(timed(self, long, 1))


def ours(model: Decoder, tokenizer: Any, precision: Any, batch: int) -> Side:
    """Our engine."""
    engine = Engine(model, tokenizer, batch, precision=precision, prefix_cache=False)

    def generate(prompts: Sequence[list[int]], answer: int) -> None:
        sampling = Sampling(max_tokens=answer, min_tokens=answer, temperature=0.0, logprobs=None)
        completions = engine.generate(prompts, [sampling] * len(prompts))
        assert all(len(completion.tokens) == answer for completion in completions)

    config = model.config
    head = config.vocab_size * config.d_model
    inside = parameter_count(config, embeddings=False)
    bits, head_bits = {"float32": (32, 32), "bfloat16": (16, 16), "int4": (5, 8)}.get(precision, (8, 8))
    read = (inside * bits + head * head_bits) / 8
    return Side(f"ours {precision}", "", generate, read, tensor_bytes(engine.model))


def transformers_side(model: Any, config: ModelConfig) -> Side:
    """Hugging Face's generate in bfloat16."""

    def generate(prompts: Sequence[list[int]], answer: int) -> None:
        tokens_BT = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                tokens_BT,
                attention_mask=torch.ones_like(tokens_BT),
                max_new_tokens=answer,
                min_new_tokens=answer,
                do_sample=False,
                pad_token_id=0,
            )
        assert out.shape[1] == tokens_BT.shape[1] + answer

    size = 2.0 * parameter_count(config)
    return Side("transformers bfloat16", f"transformers {metadata.version('transformers')}", generate, size, size)


def llama_side(path: Path, threads: int, batch: int) -> Side:
    """llama.cpp through its Python binding's low-level calls, so that what is timed is its own decoding."""
    import ctypes

    import llama_cpp as lib

    lib.llama_backend_init()
    quiet = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    per_text = max(PROMPT + ANSWER, PREFILL) + 8
    params.n_ctx, params.n_batch, params.n_ubatch = per_text * batch, max(512, batch), 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = batch, threads, threads
    context = lib.llama_init_from_model(model, params)
    vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    room = lib.llama_batch_init(max(512, batch), 0, 1)

    def run(parts: Sequence[tuple[int, int, int, bool]]) -> None:
        room.n_tokens = len(parts)
        for i, (token, place, text, wanted) in enumerate(parts):
            room.token[i], room.pos[i], room.n_seq_id[i], room.seq_id[i][0] = token, place, 1, text
            room.logits[i] = wanted
        assert lib.llama_decode(context, room) == 0

    def likeliest(row: int) -> int:
        values = lib.llama_get_logits_ith(context, row)
        return int(torch.frombuffer(_buffer(values, vocab_size), dtype=torch.float32).argmax())

    def generate(prompts: Sequence[list[int]], answer: int) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        last = []
        for text, prompt in enumerate(prompts):
            for first in range(0, len(prompt), 512):
                chunk = prompt[first : first + 512]
                run([(t, first + i, text, first + i + 1 == len(prompt)) for i, t in enumerate(chunk)])
            last.append(likeliest(len(chunk) - 1))
        for step in range(answer - 1):
            run([(token, len(prompts[0]) + step, text, True) for text, token in enumerate(last)])
            last = [likeliest(row) for row in range(len(last))]

    version, size = f"llama-cpp-python {metadata.version('llama-cpp-python')}", float(path.stat().st_size)
    return Side(f"llama.cpp {path.name.split('.')[-2]}", version, generate, size, size)


def _buffer(pointer: Any, count: int) -> Any:
    import ctypes

    return (ctypes.c_float * count).from_address(ctypes.addressof(pointer.contents))


def timed(side: Side, prompts: Sequence[list[int]], answer: int) -> float:
    gc.collect()
    began = time.perf_counter()
    side.generate(prompts, answer)
    return time.perf_counter() - began


def read_rate(megabytes: int = 256) -> float:
    """Bytes a second at which this machine reads memory."""
    numbers = torch.ones(megabytes * 2**18)
    return best_rate(lambda: numbers.sum().item(), numbers.numel() * 4.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2", help="gpt2 (124M, random weights) or a model folder")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--precisions", nargs="+", default=list(OURS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = prepare()
    torch.manual_seed(0)
    if arguments.model == "gpt2":
        config = preset("gpt2-117m")
        model, tokenizer = Decoder(config).eval(), AnyTokenizer(config.vocab_size)
        theirs = GPT2LMHeadModel(GPT2Config()).to(torch.bfloat16).eval()
    else:
        model, tokenizer = load_model(Path(arguments.model))
        theirs = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    config = model.config
    products, reads = matmul_rate(device, torch.bfloat16), read_rate()
    print(
        f"{parameter_count(config):,} parameters; memory is read at {reads / 1e9:.1f} GB/s, "
        f"products {products / 1e9:.0f} GFLOP/s"
    )
    generator = torch.Generator().manual_seed(1)
    batches: dict[int, dict[str, dict[str, float]]] = {}
    results: list[dict[str, Any]] = []
    for batch in arguments.batches:
        sides = [transformers_side(theirs, config)]
        sides += [ours(model, tokenizer, precision, batch) for precision in arguments.precisions]
        if arguments.gguf:
            sides.append(llama_side(arguments.gguf, torch.get_num_threads(), batch))
        prompts = torch.randint(1, config.vocab_size, (batch, PROMPT), generator=generator).tolist()
        long = torch.randint(1, config.vocab_size, (1, PREFILL), generator=generator).tolist() if batch == 1 else None
        for number in range(arguments.rounds + 1):
            for side in sides:
                side.measure(prompts, long)
                if number == 0:  # it warms up
                    side.steps.clear()
                    side.prefills.clear()
        batches[batch] = {
            side.name: row(side, sides[0], batch, parameter_count(config), reads, products) for side in sides
        }
        results += compare(f"{Path(arguments.model).name}, batch {batch}", batch, sides)
        _print(batch, batches[batch])
        del sides
        gc.collect()
    found = outcome("generate_vs_peers", results, read_gb_s=reads / 1e9, gflop_s=products / 1e9, batches=batches)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def row(side: Side, base: Side, batch: int, parameters: int, reads: float, products: float) -> dict[str, float]:
    """A side's figures; of_reading_weights and of_products are shares of what this machine can do."""
    step = statistics.median(side.steps)
    figures = {
        "decode_tokens_s": batch / step,
        "ratio": ratio(side.steps, base.steps),
        "of_reading_weights": side.weight_bytes / reads / step,
        "of_products": 2.0 * parameters * batch / products / step,
        "weights_mib": side.kept_bytes / 2**20,
    }
    if side.prefills:
        figures["prefill_tokens_s"] = PREFILL / statistics.median(side.prefills)
        figures["prefill_ratio"] = ratio(side.prefills, base.prefills)
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def compare(name: str, batch: int, sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Ours beside each peer, in bfloat16 and at its best."""
    own = [side for side in sides if not side.version]
    lines = []
    for peer in (side for side in sides if side.version):
        fastest = min(own, key=lambda side: statistics.median(side.steps))
        targets = TARGETS if peer is sides[0] else {(k, "best"): v for k, v in LLAMA_TARGETS.items()}
        chosen = [(side, "bfloat16") for side in own if side.name == "ours bfloat16"] + [(fastest, "best")]
        for side, kind in chosen:
            figures = (batch / statistics.median(side.steps), batch / statistics.median(peer.steps))
            target = targets.get((batch, kind))
            title = f"{name}: decoding, tokens/s, {side.name} beside {peer.name}"
            lines.append(result(title, *figures, peer.version, ratio(side.steps, peer.steps), target))
        if peer.prefills:
            fastest = min(own, key=lambda side: statistics.median(side.prefills))
            figures = (PREFILL / statistics.median(fastest.prefills), PREFILL / statistics.median(peer.prefills))
            title = f"{name}: a prompt of {PREFILL}, tokens/s, {fastest.name} beside {peer.name}"
            target = targets.get("prefill")
            lines.append(result(title, *figures, peer.version, ratio(fastest.prefills, peer.prefills), target))
    return lines


def _print(batch: int, rows: dict[str, dict[str, float]]) -> None:
    print(f"\nbatch {batch:<24} tokens/s  ratio  of reading  of products  weights   prefill  ratio")
    for name, row in rows.items():
        prefill = f"{row['prefill_tokens_s']:9.0f} {row['prefill_ratio']:6.2f}" if "prefill_ratio" in row else ""
        print(
            f"  {name:<26} {row['decode_tokens_s']:9.1f} {row['ratio']:6.2f} {row['of_reading_weights']:10.0%} "
            f"{row['of_products']:11.0%} {row['weights_mib']:6.0f} MiB {prefill}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
