"""From text to ids: gigatoken where it knows the tokenizer, Hugging Face tokenizers for all others, with equal ids."""

from __future__ import annotations

import bisect
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

import gigatoken
import tokenizers

REMEMBERED = 1024  # texts of conversations whose ids are kept, since the next turn has them in front again, ...
LONGEST_REMEMBERED = 1000  # ... and characters of one: 16 MB at most

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation: plain text, or the special token ``special``.

    written: whether the assistant writes it, so that a model may learn it.
    """

    text: str
    special: int | None
    written: bool


class Encoder(Protocol):
    """What makes ids. No text becomes a special token; only a `Piece` says one."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores."""

    def ids_of_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of a conversation."""

    def encode_pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each whether it begins in a written piece."""


def make_encoder(description: Mapping[str, Any]) -> Encoder:
    """The faster of the two encoders that a `tokenizer.json` allows."""
    if _is_plain_byte_level(description):
        try:
            return ByteEncoder(description)
        except RuntimeError:  # a vocabulary without some byte, or a pattern that it has not been written for
            pass
    return TextEncoder(description)


def _is_plain_byte_level(description: Mapping[str, Any]) -> bool:
    """Whether ids of a text are those of its bytes, and a special token cuts the text without touching either part."""
    pre = description["pre_tokenizer"] or {}
    parts = pre.get("pretokenizers", [pre])
    special = [token for token in description["added_tokens"] if token["special"]]
    return (
        description["normalizer"] is None
        and any(part.get("type") == "ByteLevel" for part in parts)
        and not any(part.get("add_prefix_space") for part in parts)
        and len(special) == len(description["added_tokens"])
        and not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in special)
    )


class ByteEncoder:
    """gigatoken's, for byte-level BPE: many times faster, and takes bytes that are not UTF-8."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """RuntimeError when gigatoken cannot encode as this tokenizer does."""
        # It knows no special token at all, so that nothing in a text has to be escaped.
        plain = {**description, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._bpe = gigatoken.Tokenizer.from_json(json.dumps(plain))
        self._lengths = {i: len(piece) for i, piece in self._bpe.vocab.items()}
        self._remembered = lru_cache(REMEMBERED)(lambda text: self._bpe.encode(_to_bytes(text)))

    def encode(self, text: str) -> list[int]:
        """A lone surrogate is encoded as the three bytes of its code point."""
        return self.encode_bytes(_to_bytes(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Of UTF-8, the ids of its text."""
        return self._bpe.encode(data).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return self._bpe.encode_batch_list([_to_bytes(text) for text in texts])

    def ids_of_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Text between two special tokens is encoded as one, whatever pieces it is in."""
        ids: list[int] = []
        for special, run in groupby(pieces, key=lambda piece: piece.special):
            if special is not None:
                ids += [special for _ in run]
                continue
            text = "".join(piece.text for piece in run)
            ids += self._remembered(text).tolist() if len(text) <= LONGEST_REMEMBERED else self.encode(text)
        return ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        """Text between two special tokens is encoded as one, whatever pieces it is in."""
        ids: list[int] = []
        written: list[bool] = []
        for special, run in groupby(pieces, key=lambda piece: piece.special is not None):
            if special:
                for piece in run:
                    assert piece.special is not None
                    ids.append(piece.special)
                    written.append(piece.written)
                continue
            parts = list(run)
            flags = [part.written for part in parts for _ in range(len(_to_bytes(part.text)))]
            start = 0
            for token in self.encode("".join(part.text for part in parts)):
                ids.append(token)
                written.append(flags[start])
                start += self._lengths[token]
        return ids, written


class TextEncoder:
    """Hugging Face's, for every tokenizer that it can read. What is not UTF-8 is encoded as U+FFFD."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """From the content of a `tokenizer.json`."""
        # Special tokens get names that nobody can type, for text alone must never make one.
        secret = secrets.token_hex(16)
        vocab = dict(description["model"]["vocab"])
        unknown = description["model"].get("unk_token")
        self._names = {t["id"]: f"\ue000{secret}{t['id']}\ue001" for t in description["added_tokens"] if t["special"]}
        added = []
        for token in description["added_tokens"]:
            name = self._names.get(token["id"], token["content"])
            added.append({**token, "content": name, "normalized": token["normalized"] and not token["special"]})
            if token["content"] in vocab:
                vocab[name] = vocab.pop(token["content"])
            if token["content"] == unknown:
                unknown = name
        described = {
            **description,
            "model": {**description["model"], "vocab": vocab, "unk_token": unknown},
            "added_tokens": added,
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        self._bpe = tokenizers.Tokenizer.from_str(json.dumps(described))

    def encode(self, text: str) -> list[int]:
        """A lone surrogate is encoded as U+FFFD."""
        return self._bpe.encode(_to_text(text)).ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of the bytes as text."""
        return self.encode(data.decode("utf-8", "replace"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return [encoding.ids for encoding in self._bpe.encode_batch([_to_text(text) for text in texts])]

    def ids_of_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """As Hugging Face encodes the whole conversation at once."""
        return self._bpe.encode("".join(self._texts(pieces))).ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        """As Hugging Face encodes the whole conversation at once."""
        texts = self._texts(pieces)
        ends: list[int] = []
        for text in texts:
            ends.append((ends[-1] if ends else 0) + len(text))
        encoding = self._bpe.encode("".join(texts))
        return encoding.ids, [pieces[bisect.bisect_right(ends, start)].written for start, _ in encoding.offsets]

    def _texts(self, pieces: Sequence[Piece]) -> list[str]:
        return [_to_text(p.text) if p.special is None else self._names[p.special] for p in pieces]


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _to_text(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
