"""Which library should train and run the byte-level BPE? Hugging Face tokenizers, rustbpe and gigatoken in one run.

Run: pip install rustbpe, then python benchmarks/tokenizer.py [--mib 10] [--vocab 4096].
The text is the source and documentation of the standard library, repeated up to the wanted size. Ours is
`chatwright.tokenizer.bpe`, which trains with Hugging Face tokenizers and encodes with gigatoken; ratio is peer seconds
over ours; ok says that the peer's result is the same: the same pieces or ids, or (rustbpe breaks ties its own way) as
many tokens to one in a thousand.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from chatwright.tokenizer.bpe import SPECIALS, Tokenizer, train_bpe
from measure import outcome

# rustbpe wants the pattern spelled out; this is GPT-2's, which ByteLevel has built in.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def sample_text(mib: float) -> list[str]:
    """Documents of about `mib` MiB in all."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(root.glob("**/*.py"))[:1500]]
    texts: list[str] = []
    size = 0
    while size < mib * 2**20:
        for text in files:
            texts.append(f"{len(texts)}\n{text}")
            size += len(text.encode())
            if size >= mib * 2**20:
                break
    return texts


def seconds(work: Callable[[], Any], runs: int = 3) -> tuple[float, Any]:
    """The best of `runs` wall-clock times, and what `work` returned."""
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


def rustbpe_peer(texts: list[str], vocab: int) -> tuple[float, float, int]:
    """Seconds to train, seconds to encode, tokens that come out."""
    import rustbpe

    def train() -> Any:
        bpe = rustbpe.Tokenizer()
        bpe.train_from_iterator(iter(texts), vocab - len(SPECIALS), pattern=GPT2_PATTERN)
        return bpe

    train_s, bpe = seconds(train, runs=1)
    encode_s, encoded = seconds(lambda: bpe.batch_encode(texts))
    return train_s, encode_s, sum(map(len, encoded))


def gigatoken_training(texts: list[str], vocab: int) -> tuple[float, set[bytes]]:
    """Seconds to train, and the pieces learned."""
    import gigatoken

    separator = b"\xff"  # never part of UTF-8
    joined = separator.join(text.encode() for text in texts)
    train_s, (pieces, _) = seconds(
        lambda: gigatoken.train_bpe(joined, vocab - len(SPECIALS), [], separator=separator), runs=1
    )
    return train_s, {bytes(piece) for piece in pieces.values()}


def hugging_face_encoding(texts: list[str], ours: Tokenizer) -> tuple[float, list[list[int]]]:
    """Seconds to encode with our vocabulary, and the ids."""
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        ours.save(Path(folder))
        bpe = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    return seconds(lambda: [encoding.ids for encoding in bpe.encode_batch_fast(texts)])


def row(name: str, peer: str, ours_s: float, peer_s: float, same: bool) -> dict[str, Any]:
    """One result of the benchmark."""
    print(f"{name}, {peer}: {peer_s:.2f} s against {ours_s:.2f} s; same result: {same}", flush=True)
    return {
        "name": f"{name}, against {peer}",
        "ours": round(ours_s, 3),
        "peer": round(peer_s, 3),
        "peer_version": metadata.version(peer),
        "ratio": round(peer_s / ours_s, 3),
        "target": None,
        "ok": same,
    }


def main() -> None:
    """Train and encode with each library, compare what comes out, print one JSON object as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=float, default=10)
    parser.add_argument("--vocab", type=int, default=4096)
    arguments = parser.parse_args()
    texts = sample_text(arguments.mib)
    train_s, ours = seconds(lambda: train_bpe(texts, arguments.vocab), runs=1)
    encode_s, ids = seconds(lambda: ours.encode_batch(texts))
    pieces = {ours.decode_bytes([i]) for i in range(ours.vocab_size)} - {b""}
    tokens = sum(map(len, ids))

    rust_train_s, rust_encode_s, rust_tokens = rustbpe_peer(texts, arguments.vocab)
    giga_train_s, giga_pieces = gigatoken_training(texts, arguments.vocab)
    face_encode_s, face_ids = hugging_face_encoding(texts, ours)
    as_many = abs(rust_tokens / tokens - 1) < 1e-3
    size = f"{arguments.mib:g} MiB, vocabulary {arguments.vocab}"
    results = [
        row(f"train, {size}", "rustbpe", train_s, rust_train_s, as_many),
        row(f"train, {size}", "gigatoken", train_s, giga_train_s, giga_pieces == pieces),
        row(f"encode, {size}", "tokenizers", encode_s, face_encode_s, face_ids == ids),
        row(f"encode, {size}", "rustbpe", encode_s, rust_encode_s, as_many),
    ]
    outcome("tokenizer", results)


if __name__ == "__main__":
    main()
