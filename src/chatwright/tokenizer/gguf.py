"""Tokenizers as GGUF keeps them, in the fields `tokenizer.ggml.*`, from and to our own.

The kinds and their patterns are llama.cpp's (`llama-vocab.cpp`); kinds with the same pattern as one here read alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatwright.errors import UserError
from chatwright.tokenizer.bpe import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = {**_BYTES, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# tokenizer.ggml.pre: how a text is cut before merges, as the pre_tokenizer of a tokenizer.json.
_PRE: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [_DIGITS, _GPT2],
    "llama-bpe": [_split(_LLAMA3), _BYTES],
    "qwen2": [_split(_QWEN2), _BYTES],
}
_SAME_PRE = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
_WHOLE_WORDS = "llama-bpe"  # a word that is a token is never merged from parts
_NFC = "qwen2"  # normalises a text's characters first

_SPACE = "▁"


def from_fields(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file's fields. UserError when it is of a kind that cannot be read."""
    kind = _get(fields, "model", "gpt2")
    if kind == "gpt2":
        description = _byte_level(fields)
    elif kind == "llama":
        description = _sentencepiece(fields)
    else:
        raise UserError(f"tokenizer.ggml.model is {kind!r}; 'gpt2' and 'llama' can be read.")
    tokens = _get(fields, "tokens")
    description["added_tokens"] = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token_type != USER_DEFINED,
        }
        for i, token_type in enumerate(_get(fields, "token_type"))
        if token_type in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in _ROLE_KEYS.items()}
    roles = {role: tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}
    begin = ids["bos_token"]
    if _get(fields, "add_bos_token", kind == "llama") and begin is not None and "bos_token" in roles:
        description["post_processor"] = _begin(roles["bos_token"], begin)
    stops = [fields[key] for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id") if key in fields]
    try:
        return Tokenizer(description, roles, fields.get("tokenizer.chat_template"), stops)
    except Exception as error:  # the library's own checks of the file's content have no type of their own
        reason = str(error) if type(error) is ValueError else "its merges and tokens do not make a BPE"
        raise UserError(f"its tokenizer cannot be used: {reason}.") from None


_ROLE_KEYS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _get(fields: Mapping[str, Any], key: str, default: Any = None) -> Any:
    value = fields.get(f"tokenizer.ggml.{key}", default)
    if value is None:
        raise UserError(f"it lacks the field tokenizer.ggml.{key}.")
    return value


def _byte_level(fields: Mapping[str, Any]) -> dict[str, Any]:
    named = _get(fields, "pre", "gpt-2" if fields.get("general.architecture") == "gpt2" else None)  # old files lack it
    pre = _SAME_PRE.get(named, named)
    if pre not in _PRE:
        known = ", ".join([*_PRE, *_SAME_PRE])
        raise UserError(f"tokenizer.ggml.pre is {named!r}; these can be read: {known}.")
    merges = [tuple(merge.split(" ", 1)) for merge in _get(fields, "merges")]
    parts = _PRE[pre]
    return _description(
        _vocab(fields),
        merges,
        ignore_merges=pre == _WHOLE_WORDS,
        normalizer={"type": "NFC"} if pre == _NFC else None,
        pre_tokenizer=parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts},
        decoder={**_GPT2, "add_prefix_space": True},
    )


def _sentencepiece(fields: Mapping[str, Any]) -> dict[str, Any]:
    vocab = _vocab(fields)
    spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if _get(fields, "add_space_prefix", True):
        spaces = [{"type": "Prepend", "prepend": _SPACE}, *spaces]
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    return _description(
        vocab,
        _merges_by_score(vocab, _get(fields, "scores"), _get(fields, "token_type")),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=_get(fields, "tokens")[unknown],
        normalizer={"type": "Sequence", "normalizers": spaces},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def _vocab(fields: Mapping[str, Any]) -> dict[str, int]:
    tokens, types = _get(fields, "tokens"), _get(fields, "token_type")
    if len(tokens) != len(types):
        raise UserError(f"it has {len(tokens)} tokens and the types of {len(types)}.")
    return {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}


def _merges_by_score(vocab: Mapping[str, int], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """sentencepiece joins the neighbours that make the piece of the highest score; as merges, best first."""
    merges = []
    for piece, i in vocab.items():
        if types[i] != NORMAL:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((-scores[i], i, vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _description(vocab: dict[str, int], merges: Sequence[tuple[str, ...]], **parts: Any) -> dict[str, Any]:
    """The content of a `tokenizer.json`; ``parts`` are fields of its model where it has such, or else of itself."""
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    model |= {key: parts.pop(key) for key in list(parts) if key in model}
    model |= {"vocab": vocab, "merges": [list(merge) for merge in merges]}
    return {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, **parts, "model": model}


def _begin(token: str, token_id: int) -> dict[str, Any]:
    """The post_processor that puts a token before every text."""
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            start,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": token, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def to_fields(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The fields of a tokenizer, for a model of ``vocab_size`` rows. UserError when llama.cpp has no such kind."""
    description = tokenizer.description
    model = description["model"]
    added = {token["id"]: token for token in description["added_tokens"]}
    tokens = {i: token for token, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    is_sentencepiece = bool(model.get("byte_fallback"))
    unknown = tokens_id if (tokens_id := model["vocab"].get(model.get("unk_token"))) is not None else -1

    def token_type(i: int) -> int:
        if i not in tokens:
            return UNUSED
        if i == unknown:
            return UNKNOWN
        if i in added:
            return CONTROL if added[i]["special"] else USER_DEFINED
        return BYTE if is_sentencepiece and tokens[i].startswith("<0x") else NORMAL

    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    fields: dict[str, Any] = {
        "model": "llama" if is_sentencepiece else "gpt2",
        "tokens": [tokens.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        "token_type": [token_type(i) for i in range(vocab_size)],
    }
    if is_sentencepiece:
        fields |= _scores(tokens, merges, vocab_size) | {"add_space_prefix": _prepends_space(description)}
    else:
        fields |= {"pre": _pre(description), "merges": merges}
    ids = {token: i for i, token in tokens.items()}
    fields |= {f"{_ROLE_KEYS[role]}_token_id": ids[token] for role, token in tokenizer.roles.items()}
    if tokenizer.end_of_turn is not None:
        others = sorted(tokenizer.stops - {tokenizer.end_of_turn})
        fields |= dict(zip(("eos_token_id", "eot_token_id", "eom_token_id"), [tokenizer.end_of_turn, *others]))  # noqa: B905
    fields |= {"add_bos_token": _begins(description, tokenizer.begin_of_text)}
    named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return named | ({} if tokenizer.template is None else {"tokenizer.chat_template": tokenizer.template})


def _pre(description: Mapping[str, Any]) -> str:
    pre = description["pre_tokenizer"] or {}
    parts = [_essence(part) for part in pre.get("pretokenizers", [pre])]
    byte_level = any(part["type"] == "ByteLevel" for part in parts if part)
    kind = next((name for name, known in _PRE.items() if parts == [_essence(part) for part in known]), None)
    if kind is None or not byte_level:
        raise UserError("llama.cpp has no name for the way this tokenizer cuts text; use --format hf.")
    return kind


def _essence(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a pre_tokenizer without what does not change ids."""
    return {key: value for key, value in part.items() if key not in ("trim_offsets", "invert")}


def _scores(tokens: Mapping[int, str], merges: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """Scores in the order of the merges that first make each piece; what no merge makes comes last."""
    rank: dict[str, int] = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), i)
    return {"scores": [-float(rank.get(tokens.get(i, ""), len(merges))) for i in range(vocab_size)]}


def _prepends_space(description: Mapping[str, Any]) -> bool:
    normalizer = description["normalizer"] or {}
    parts = normalizer.get("normalizers", [normalizer])
    pre = description["pre_tokenizer"] or {}
    return any(part.get("type") == "Prepend" for part in parts) or pre.get("prepend_scheme", "never") != "never"


def _begins(description: Mapping[str, Any], bos: int | None) -> bool:
    """Whether the tokenizer puts the beginning of text before every text by itself."""
    post = description["post_processor"] or {}
    parts = post.get("processors", [post])
    singles = [part["single"] for part in parts if part.get("type") == "TemplateProcessing"]
    return bos is not None and any("SpecialToken" in single[0] for single in singles)
