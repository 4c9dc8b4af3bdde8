"""From ids to bytes: what every id of a `tokenizer.json` stands for, and text as its ids come one by one."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece names a byte that no piece has
_SPACE = "▁"  # how sentencepiece names a space


@dataclass(frozen=True)
class ByteTable:
    """pieces: the bytes of every id, none for special tokens and for ids without a token.

    leading, trailing: what the tokenizer put before its first piece and after its last, and decoding takes away.
    """

    pieces: list[bytes]
    leading: bytes = b""
    trailing: bytes = b""

    def join(self, ids: Sequence[int]) -> bytes:
        """The bytes that ``ids`` stand for."""
        joined = b"".join([self.pieces[i] for i in ids])
        return joined.removeprefix(self.leading).removesuffix(self.trailing)


class TextStream:
    """Decodes ids as they come, in pieces of whole characters; joined, the pieces are the decoded text.

    >>> stream = tokenizer.stream()
    >>> [stream.feed(i) for i in tokenizer.encode("né")] + [stream.rest()]
    ['n', '', 'é', '']
    """

    def __init__(self, table: ByteTable) -> None:
        """Begin a text."""
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begun = False
        self._held = b""  # may be the text's last piece's end, which is not said

    def feed(self, token: int) -> str:
        """What can be said now that ``token`` has come."""
        data = self._table.pieces[token]
        if data and not self._begun:
            self._begun = True
            data = data.removeprefix(self._table.leading)
        data = self._held + data
        kept = self._table.trailing if data.endswith(self._table.trailing) else b""
        self._held = kept
        return self._decoder.decode(data.removesuffix(kept))

    def rest(self) -> str:
        """What is left now that no more tokens come: a character that broke off, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def byte_table(description: Mapping[str, Any]) -> ByteTable:
    """The table of a `tokenizer.json`. ValueError when its decoder is none of byte-level, sentencepiece and GPT-1."""
    decoders = _flat(description.get("decoder"))
    kinds = [decoder["type"] for decoder in decoders]
    leading = trailing = b""
    if "ByteLevel" in kinds:
        to_bytes = _byte_level
    elif "BPEDecoder" in kinds:  # GPT-1: the last piece of a word carries a mark
        suffix = decoders[kinds.index("BPEDecoder")]["suffix"]
        trailing = b" "

        def to_bytes(piece: str) -> bytes:
            return piece.replace(suffix, " ").encode()

    elif "Metaspace" in kinds or any(d["type"] == "Replace" and d["content"] == " " for d in decoders):
        to_bytes = _sentencepiece
        leading = b" " if _drops_first_space(decoders) else b""
    else:
        raise ValueError("its decoder is not one of byte-level BPE, sentencepiece BPE and GPT-1's BPE")

    pieces = {i: to_bytes(piece) for piece, i in description["model"]["vocab"].items()}
    for token in description["added_tokens"]:
        pieces[token["id"]] = b"" if token["special"] else token["content"].encode()
    return ByteTable([pieces.get(i, b"") for i in range(max(pieces) + 1)], leading, trailing)


def _flat(component: Any) -> list[dict[str, Any]]:
    """A component of a `tokenizer.json`, or the parts of a sequence of them."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [part for inner in component.get("decoders", []) for part in _flat(inner)]
    return [component]


def _drops_first_space(decoders: Sequence[Mapping[str, Any]]) -> bool:
    for decoder in decoders:
        if decoder["type"] == "Strip" and decoder["start"]:
            return True
        if decoder["type"] == "Metaspace":
            return decoder.get("prepend_scheme", "always") != "never"
    return False


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


def _byte_level(piece: str) -> bytes:
    table = byte_of_character()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table
