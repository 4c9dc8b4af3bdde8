"""Model folders in the Hugging Face layout: what we save loads in transformers as it is, and the reverse.

A reward model is its family's ForSequenceClassification with one label, and our score is that class's score minus
``reward_bias`` of config.json. Only safetensors and JSON are read.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatwright.errors import UserError
from chatwright.model.config import Layout, ModelConfig
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.hf_config import CAUSAL, CLASSES, MODEL_TYPES, REWARD, from_fields, to_fields
from chatwright.model.names import HUGGING_FACE
from chatwright.model.weights import Shapes, check_shapes, expected_shapes, to_decoder, to_tensors
from chatwright.storage import read_json, whole_file, write_json
from chatwright.tokenizer.bpe import Tokenizer

# Buffers that older versions of transformers wrote into their files; they hold no weights.
_BUFFERS = re.compile(r"\.attn\.(?:bias|masked_bias)$|\.rotary_emb\.inv_freq$|(?:^|\.)position_ids$")


PLAIN_SAMPLING = {"do_sample": True, "temperature": 1.0}


def save_model(
    model: Decoder,
    folder: Path,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
    sampling: Mapping[str, Any] = PLAIN_SAMPLING,
) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load as it is.

    sampling: what generation_config.json recommends beside the ends of an answer.
    """
    config = model.config
    tensors = to_tensors(model, HUGGING_FACE[config.layout])
    fields = _hf_config(config, tokenizer, dtype, CAUSAL[config.layout])
    write_json(folder / "generation_config.json", {**_ends(tokenizer), **sampling})
    _save(folder, tensors, fields, tokenizer, dtype)


def save_reward(model: ScoredDecoder, folder: Path, tokenizer: Tokenizer) -> None:
    """Write a folder that `AutoModelForSequenceClassification` loads; an LM head of its own is left out."""
    config = model.decoder.config.model_copy(update={"tied": True})
    fields = _hf_config(config, tokenizer, torch.float32, REWARD[config.layout])
    fields |= {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}, "reward_bias": model.bias.item()}
    tensors = to_tensors(model.decoder, HUGGING_FACE[config.layout]) | {"score.weight": model.head.weight}
    tensors.pop("lm_head.weight", None)
    _save(folder, tensors, fields, tokenizer, torch.float32)


def load_model(folder: Path) -> tuple[Decoder, Tokenizer]:
    """Read a model folder, ours or of transformers; weights as float32. UserError says what is wrong with it."""
    _, config, tokenizer = _read_config(folder, CAUSAL)
    names = HUGGING_FACE[config.layout]
    tensors = _read_tensors(folder, config, expected_shapes(config, names))
    return to_decoder(config, names, tensors), tokenizer


def read_shape(folder: Path) -> ModelConfig:
    """The config of a model folder, without its weights. UserError says what is wrong with it."""
    return _read_config(folder, CAUSAL)[1]


def load_reward(folder: Path) -> tuple[ScoredDecoder, Tokenizer]:
    """Read a reward model's folder. UserError says what is wrong with it."""
    fields, config, tokenizer = _read_config(folder, REWARD)
    config = config.model_copy(update={"tied": True})
    bias = fields.get("reward_bias", 0.0)
    if not isinstance(bias, int | float) or not math.isfinite(bias):
        raise UserError(f"{folder / 'config.json'}: reward_bias must be a number, not {bias!r}.")
    names = HUGGING_FACE[config.layout]
    expected = expected_shapes(config, names) | {"score.weight": (1, config.d_model)}
    tensors = _read_tensors(folder, config, expected)
    model = ScoredDecoder(to_decoder(config, names, tensors), torch.Generator())
    with torch.no_grad():
        model.head.weight.copy_(tensors["score.weight"])
        model.bias.fill_(bias)
    return model, tokenizer


def _save(
    folder: Path, tensors: Mapping[str, Tensor], fields: dict[str, Any], tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    tokenizer.save(folder)
    with whole_file(folder / "model.safetensors") as partial:
        with _disk_errors(partial):
            save_file(stored, partial, metadata={"format": "pt"})
        shutil.copymode(folder / "tokenizer.json", partial)  # safetensors makes it the owner's alone
    write_json(folder / "config.json", fields)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors says of a full disk as the system's own error."""
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent)) from None
        raise


def _ends(tokenizer: Tokenizer) -> dict[str, Any]:
    """The special ids that transformers looks for in its configs."""
    first = tokenizer.end_of_turn
    ends = [i for i in sorted(tokenizer.stops) if i != first]
    return {
        "bos_token_id": tokenizer.begin_of_text,
        "eos_token_id": [first, *ends] if ends else first,
        "pad_token_id": tokenizer.pad,
    }


def _hf_config(config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype, architecture: str) -> dict[str, Any]:
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"The tokenizer has {tokenizer.vocab_size} ids and the model only {config.vocab_size}; "
            "set the model's vocab_size to the tokenizer's."
        )
    common = {
        "architectures": [architecture],
        "vocab_size": config.vocab_size,
        "dtype": str(dtype).removeprefix("torch."),
        **_ends(tokenizer),
        "initializer_range": 0.02,
        "use_cache": True,
    }
    return common | to_fields(config)


def _read_config(folder: Path, architectures: dict[Layout, str]) -> tuple[dict[str, Any], ModelConfig, Tokenizer]:
    if not folder.is_dir():
        raise UserError(f"There is no model folder {folder}.")
    path = folder / "config.json"
    fields = read_json(path)
    layout = _layout(fields, architectures) if isinstance(fields, dict) else None
    if layout is None:
        named = fields.get("architectures") if isinstance(fields, dict) else None
        raise UserError(
            f"{path} names the architecture {named!r}; this can be read: {', '.join(architectures.values())}."
        )
    config = from_fields(fields, layout, path)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model only {config.vocab_size}; "
            "they are not of the same model."
        )
    return fields, config, tokenizer


def _layout(fields: Mapping[str, Any], architectures: Mapping[Layout, str]) -> Layout | None:
    """The family that a config.json names: with the head asked for, as a bare model, or by its type alone."""
    named = fields.get("architectures") or [None]
    for layout, architecture in architectures.items():
        bare = architectures is CAUSAL and named == [f"{CLASSES[layout]}Model"]
        untold = architectures is CAUSAL and named == [None] and fields.get("model_type") == MODEL_TYPES[layout]
        if named == [architecture] or bare or untold:
            return layout
    return None


def _read_tensors(folder: Path, config: ModelConfig, expected: Shapes) -> dict[str, Tensor]:
    """The tensors of a folder's safetensors files, which are exactly those expected. UserError otherwise."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        path, tensors = index, _read_shards(folder, index)
    else:
        path = folder / "model.safetensors"
        tensors = _read_file(path)
    tensors = {name: tensor for name, tensor in tensors.items() if not _BUFFERS.search(name)}
    base = HUGGING_FACE[config.layout].base
    if not any(name.startswith(base) for name in tensors):  # a file of the bare model, without its head
        tensors = {base + name: tensor for name, tensor in tensors.items()}
    if config.tied:
        tensors.pop("lm_head.weight", None)  # some files hold the embedding twice
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(found, expected, path, "config.json")
    return tensors


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    """The tensors of every file that the index names, each from the file it is said to be in."""
    fields = read_json(index)
    places = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{index} has no weight_map from tensors to files.")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise UserError(f"{index} names the file {file!r}, which is not in its own folder.")
        tensors |= {name: tensor for name, tensor in _read_file(folder / file).items() if places.get(name) == file}
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}); copy or make it again.") from None
