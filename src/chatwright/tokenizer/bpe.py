"""BPE tokenizers, ours and those of other models. Text never becomes a special token.

Hugging Face tokenizers learns our merges and defines the file format; `chatwright.tokenizer.encoding` makes ids,
`chatwright.tokenizer.decoding` text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from chatwright.errors import UserError
from chatwright.storage import digest, read_json, write_json, write_text
from chatwright.tokenizer.decoding import TextStream, byte_table
from chatwright.tokenizer.encoding import Piece, make_encoder
from chatwright.tokenizer.template import CHATML, ChatTemplate

END_OF_TEXT = "<|endoftext|>"  # after every document of the pretraining text
TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
PAD = "<|pad|>"  # fills batches; a token of its own, so that no mask ever has to guess
SPECIALS = (END_OF_TEXT, TURN, END_OF_TURN, PAD)

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>")  # of other models; those without one use their eos_token
_OLD_FILES = ("vocab.json", "tokenizer.model")


class Tokenizer:
    """A BPE vocabulary, its special tokens, which only code can write, and its chat template.

    begin_of_text: the bos_token. end_of_turn: what a model writes after its answer, the eos_token. Either is None where
    there is none, as in GPT-1. stops: all ids at which an answer ends. pad: fills batches.

    >>> tokenizer.decode(tokenizer.encode("a <|im_end|> b"))
    'a <|im_end|> b'
    >>> tokenizer.end_of_turn in tokenizer.encode("a <|im_end|> b")
    False
    """

    def __init__(
        self,
        description: dict[str, Any],
        roles: Mapping[str, str],
        template: str | None = None,
        stops: Collection[int] = (),
    ) -> None:
        """From the content of a `tokenizer.json`, or use `load` or `train_bpe`.

        roles: which token is the ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, where there is one.
        stops: ids that end an answer, beside the eos_token's or instead; those that it does not have are left out.
        ValueError says what cannot be used.
        """
        if description["model"].get("type") != "BPE":
            raise ValueError(f"its model is {description['model'].get('type')!r} and not BPE")
        self.description = description
        self.specials: dict[str, int] = {t["content"]: t["id"] for t in description["added_tokens"] if t["special"]}
        self.template = template
        added = {token["content"]: token["id"] for token in description["added_tokens"]}
        self._ids: dict[str, int] = {**description["model"]["vocab"], **added}
        self.roles = {role: roles[role] for role in _ROLES if roles.get(role) in self._ids}
        self._encoder = make_encoder(description)
        self._table = byte_table(description)
        self.vocab_size = len(self._table.pieces)
        self.begin_of_text = self._role("bos_token")
        eos = self._role("eos_token")
        ends = [i for i in stops if i in range(self.vocab_size)] + ([] if eos is None else [eos])
        self.stops = frozenset(ends)
        self.end_of_turn = ends[0] if eos is None and ends else eos
        pad = self._role("pad_token")
        # Without one any id will do: what is padding is told by masks.
        self.pad = pad if pad is not None else self.end_of_turn if self.end_of_turn is not None else 0
        self.hash = digest([description, template])

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of a folder in the Hugging Face layout. UserError when it is missing or cannot be used."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file() and any((folder / name).is_file() for name in _OLD_FILES):
            raise UserError(
                f"{path} does not exist; make it of the older files there with transformers: "
                f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})."
            )
        description = read_json(path)
        fields = _optional(folder / "tokenizer_config.json")
        stops = _stops(folder)
        try:
            return cls(description, _roles(fields), _template(folder, fields), stops)
        except Exception as error:  # a bad file can fail anywhere: missing keys, wrong types, the library's own checks
            reason = error if type(error) in (ValueError, UserError) else "it is not a BPE tokenizer"
            raise UserError(f"{path} cannot be used as a tokenizer: {str(reason).rstrip('.')}.") from None

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` loads as they are."""
        text = json.dumps(self.description, ensure_ascii=False, indent=1)
        write_text(Path(folder) / "tokenizer.json", text + "\n")
        template = {} if self.template is None else {"chat_template": self.template}
        write_json(
            Path(folder) / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                **self.roles,
                "clean_up_tokenization_spaces": False,
                **template,
            },
        )

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The template of conversations. UserError when there is none, as in models that only continue text."""
        if self.template is None:
            raise UserError("This model has no chat template: it continues text and was not taught to converse.")
        return ChatTemplate(self.template, self.specials, self.roles, self.stops)

    @property
    def end_of_text(self) -> int:
        """What separates documents: ``<|endoftext|>`` or its like, or else end_of_turn. UserError without either."""
        for name in _ENDS_OF_TEXT:
            if name in self.specials:
                return self.specials[name]
        if self.end_of_turn is None:
            raise UserError("This tokenizer has no token that ends a text, so documents cannot be told apart.")
        return self.end_of_turn

    def _role(self, role: str) -> int | None:
        return self._ids.get(self.roles.get(role, ""))

    def encode(self, text: str) -> list[int]:
        """Ids of any text, never a special id. A lone surrogate comes back as bytes or as U+FFFD."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return self._encoder.encode_batch(texts)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes; of UTF-8 they are those of its text."""
        return self._encoder.encode_bytes(data)

    def ids_of_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of a rendered conversation."""
        return self._encoder.ids_of_pieces(pieces)

    def encode_pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        """Ids of a rendered conversation, and for each whether the assistant writes it."""
        return self._encoder.encode_pieces(pieces)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that `ids` stand for; special tokens stand for none."""
        return self._table.join(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for inside of a text; at its beginning a space may be left out."""
        return self._table.pieces[token]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self) -> TextStream:
        """`decode` for ids that come one by one."""
        return TextStream(self._table)


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
    return Tokenizer(json.loads(bpe.to_str()), {"eos_token": END_OF_TURN, "pad_token": PAD}, CHATML)


def _optional(path: Path) -> dict[str, Any]:
    """A JSON object that a folder may lack."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object.")
    return value


def _roles(fields: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a tokenizer_config.json names, as text or as objects with their content."""
    named = {role: fields.get(role) for role in _ROLES}
    texts = {role: token.get("content") if isinstance(token, dict) else token for role, token in named.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def _stops(folder: Path) -> list[int]:
    """The ids at which a model's answers end: generation_config.json says it, or else config.json."""
    for name in ("generation_config.json", "config.json"):
        ends = _optional(folder / name).get("eos_token_id")
        if ends is not None:
            return ends if isinstance(ends, list) else [ends]
    return []


def _template(folder: Path, fields: Mapping[str, Any]) -> str | None:
    """The chat template, from a file of its own or from tokenizer_config.json; of several, the default one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = fields.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ValueError("its chat_template is not text")
    return template
