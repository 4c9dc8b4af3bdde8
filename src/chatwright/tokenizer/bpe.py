"""Byte-level BPE: train, encode, decode. Text never becomes a special token; any bytes come back exactly.

Hugging Face tokenizers learns the merges and defines the file format; gigatoken encodes, with the same ids, many times
faster (docs/tokenizer.md has the measurements).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gigatoken
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from chatwright.errors import UserError
from chatwright.storage import digest, read_json, write_json, write_text

END_OF_TEXT = "<|endoftext|>"  # after every document of the pretraining text
TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
PAD = "<|pad|>"  # fills batches; a token of its own, so that no mask ever has to guess
SPECIALS = (END_OF_TEXT, TURN, END_OF_TURN, PAD)

# ChatML. `chat.render` writes the same ids segment by segment, so that no text can forge a turn.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


class Tokenizer:
    """A byte-level BPE vocabulary with GPT-2's pre-tokenisation, and special tokens that only code can write.

    >>> tokenizer.decode(tokenizer.encode("a <|im_end|> b"))
    'a <|im_end|> b'
    >>> tokenizer.end_of_turn in tokenizer.encode("a <|im_end|> b")
    False
    """

    def __init__(self, description: dict[str, Any]) -> None:
        """Build from the content of a `tokenizer.json`; use `load` or `train_bpe`. ValueError when it is not ours."""
        specials = {token["content"]: token["id"] for token in description["added_tokens"]}
        missing = [name for name in SPECIALS if name not in specials]
        if missing:
            raise ValueError(f"it lacks the special tokens {', '.join(missing)}")
        if description["model"].get("type") != "BPE" or description["pre_tokenizer"].get("type") != "ByteLevel":
            raise ValueError("it is not a byte-level BPE")
        self._description = description
        # The encoder that text meets knows no special token at all: nothing has to be escaped.
        self._bpe = gigatoken.Tokenizer.from_json(json.dumps({**description, "added_tokens": []}))
        self._piece_bytes = _bytes_of_ids(description["model"]["vocab"], frozenset(specials.values()))
        if len({piece for piece in self._piece_bytes if len(piece) == 1}) != 256:
            raise ValueError("its vocabulary lacks some of the 256 bytes")
        self.vocab_size = len(self._piece_bytes)
        self.end_of_text = specials[END_OF_TEXT]
        self.turn = specials[TURN]
        self.end_of_turn = specials[END_OF_TURN]
        self.pad = specials[PAD]
        self.hash = digest([description, CHAT_TEMPLATE])

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `folder/tokenizer.json`. UserError when it is missing or is not a tokenizer of this package."""
        path = Path(folder) / "tokenizer.json"
        description = read_json(path)
        try:
            return cls(description)
        except Exception as error:  # a bad file can fail anywhere: missing keys, wrong types, the library's own checks
            reason = error if type(error) is ValueError else "it is not a byte-level BPE tokenizer"
            raise UserError(
                f"{path} cannot be used as a tokenizer: {reason}; make it again with `chatwright tokenizer`."
            ) from None

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` loads as they are."""
        text = json.dumps(self._description, ensure_ascii=False, indent=1)
        write_text(Path(folder) / "tokenizer.json", text + "\n")
        write_json(
            Path(folder) / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END_OF_TURN,
                "pad_token": PAD,
                "clean_up_tokenization_spaces": False,
                "chat_template": CHAT_TEMPLATE,
            },
        )

    def encode(self, text: str) -> list[int]:
        """Ids of any text, never a special id. A lone surrogate is encoded as the three bytes of its code point."""
        return self.encode_bytes(text.encode("utf-8", "surrogatepass"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return self._bpe.encode_batch_list([text.encode("utf-8", "surrogatepass") for text in texts])

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes; of UTF-8 they are those of its text."""
        return self._bpe.encode(data).tolist()

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that `ids` stand for; special tokens stand for none."""
        return b"".join([self._piece_bytes[i] for i in ids])

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from `texts` until there are `vocab_size` ids, the specials among them (fewer if the text runs out).

    Equal texts in equal order give an equal tokenizer.
    """
    if vocab_size < 256 + len(SPECIALS):
        raise UserError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least {256 + len(SPECIALS)}.")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return Tokenizer(json.loads(bpe.to_str()))


def _bytes_of_ids(vocab: dict[str, int], special_ids: frozenset[int]) -> list[bytes]:
    """The bytes of every id, in order of id; b"" for special ids."""
    byte_of_character = _byte_of_character()
    pieces = {i: bytes(byte_of_character[c] for c in piece) for piece, i in vocab.items() if i not in special_ids}
    pieces.update(dict.fromkeys(special_ids, b""))
    if sorted(pieces) != list(range(len(pieces))):
        raise ValueError("its ids have gaps")
    return [pieces[i] for i in range(len(pieces))]


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table
