"""Model folders in the Hugging Face layout: what we save loads in transformers as it is, and the reverse.

gpt2 is GPT2LMHeadModel, modern is Qwen3ForCausalLM; a reward model is their ForSequenceClassification with one label,
and our score is that class's score minus ``reward_bias`` of config.json. One table (`tensor_table`) names every tensor
on both sides, so that saving and loading cannot disagree. Only safetensors and JSON are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatwright.errors import UserError
from chatwright.model.config import Layout, ModelConfig, preset
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.storage import read_json, whole_file, write_json
from chatwright.tokenizer.bpe import Tokenizer

_CAUSAL: dict[Layout, str] = {"gpt2": "GPT2LMHeadModel", "modern": "Qwen3ForCausalLM"}
_REWARD: dict[Layout, str] = {"gpt2": "GPT2ForSequenceClassification", "modern": "Qwen3ForSequenceClassification"}

# Fields of config.json that would change the logits if they had another value; what is absent has this value.
_FIXED: dict[Layout, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "modern": {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
        "rope_scaling": (None,),
    },
}


@dataclass(frozen=True)
class Entry:
    """One of our tensors and the Hugging Face tensors that hold it: its rows in order, each perhaps transposed."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()  # of each of ``theirs``, where there are several
    transposed: bool = False  # GPT-2's Conv1D keeps [in, out]

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor as theirs."""
        parts = tensor.split(self.rows) if self.rows else (tensor,)
        return {name: part.t() if self.transposed else part for name, part in zip(self.theirs, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Their tensors as ours, in memory of its own."""
        return torch.cat([tensors[name].t() if self.transposed else tensors[name] for name in self.theirs])


def tensor_table(config: ModelConfig) -> list[Entry]:
    """Every parameter of `Decoder(config)` beside its Hugging Face name."""
    table = _gpt2_table(config) if config.layout == "gpt2" else _modern_table(config)
    return table if config.tied else [*table, Entry("head.weight", ("lm_head.weight",))]


def _gpt2_table(config: ModelConfig) -> list[Entry]:
    names = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    table = [
        Entry("embedding.weight", ("transformer.wte.weight",)),
        Entry("positions.weight", ("transformer.wpe.weight",)),
        Entry("norm.weight", ("transformer.ln_f.weight",)),
        Entry("norm.bias", ("transformer.ln_f.bias",)),
    ]
    for layer in range(config.layers):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                transposed = kind == "weight" and "." in ours
                name = f"transformer.h.{layer}.{theirs}.{kind}"
                table.append(Entry(f"blocks.{layer}.{ours}.{kind}", (name,), transposed=transposed))
    return table


def _modern_table(config: ModelConfig) -> list[Entry]:
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    table = [
        Entry("embedding.weight", ("model.embed_tokens.weight",)),
        Entry("norm.weight", ("model.norm.weight",)),
    ]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        projections = tuple(f"{theirs}.self_attn.{name}_proj.weight" for name in "qkv")
        gate_up = (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight")
        table += [
            Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)),
            Entry(f"{ours}.attention.qkv.weight", projections, rows=(q, kv, kv)),
            Entry(f"{ours}.attention.q_norm", (f"{theirs}.self_attn.q_norm.weight",)),
            Entry(f"{ours}.attention.k_norm", (f"{theirs}.self_attn.k_norm.weight",)),
            Entry(f"{ours}.attention.out.weight", (f"{theirs}.self_attn.o_proj.weight",)),
            Entry(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
            Entry(f"{ours}.mlp.up.weight", gate_up, rows=(config.d_ff, config.d_ff)),
            Entry(f"{ours}.mlp.down.weight", (f"{theirs}.mlp.down_proj.weight",)),
        ]
    return table


def save_model(model: Decoder, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load as it is."""
    config = model.config
    _save(folder, _to_theirs(model), _hf_config(config, tokenizer, dtype, _CAUSAL[config.layout]), tokenizer, dtype)


def save_reward(model: ScoredDecoder, folder: Path, tokenizer: Tokenizer) -> None:
    """Write a folder that `AutoModelForSequenceClassification` loads; an LM head of its own is left out."""
    config = model.decoder.config.model_copy(update={"tied": True})
    fields = _hf_config(config, tokenizer, torch.float32, _REWARD[config.layout])
    fields |= {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}, "reward_bias": model.bias.item()}
    tensors = _to_theirs(model.decoder) | {"score.weight": model.head.weight}
    tensors.pop("lm_head.weight", None)
    _save(folder, tensors, fields, tokenizer, torch.float32)


def load_model(folder: Path) -> tuple[Decoder, Tokenizer]:
    """Read a model folder, ours or of transformers; weights as float32. UserError says what is wrong with it."""
    _, config, tokenizer = _read_config(folder, _CAUSAL)
    tensors = _read_tensors(folder, _expected_shapes(config))
    return _decoder(config, tensors), tokenizer


def load_reward(folder: Path) -> tuple[ScoredDecoder, Tokenizer]:
    """Read a reward model's folder. UserError says what is wrong with it."""
    fields, config, tokenizer = _read_config(folder, _REWARD)
    config = config.model_copy(update={"tied": True})
    bias = fields.get("reward_bias", 0.0)
    if not isinstance(bias, int | float) or not math.isfinite(bias):
        raise UserError(f"{folder / 'config.json'}: reward_bias must be a number, not {bias!r}.")
    score = (1, config.d_model)
    tensors = _read_tensors(folder, _expected_shapes(config) | {"score.weight": score})
    model = ScoredDecoder(_decoder(config, tensors), torch.Generator())
    with torch.no_grad():
        model.head.weight.copy_(tensors["score.weight"])
        model.bias.fill_(bias)
    return model, tokenizer


def _to_theirs(model: Decoder) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: part for entry in tensor_table(model.config) for name, part in entry.split(state[entry.ours]).items()}


def _decoder(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Decoder:
    with torch.device("meta"):  # no memory, and no draw from the global generator
        model = Decoder(config)
    state = {entry.ours: entry.join(tensors).to(torch.float32) for entry in tensor_table(config)}
    model.load_state_dict(state, assign=True)
    return model


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in _to_theirs(Decoder(config)).items()}


def _save(
    folder: Path, tensors: Mapping[str, Tensor], fields: dict[str, Any], tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / "model.safetensors") as partial:
        save_file(stored, partial, metadata={"format": "pt"})
    tokenizer.save(folder)
    if fields["architectures"][0] in _CAUSAL.values():
        ends = {"eos_token_id": tokenizer.end_of_turn, "pad_token_id": tokenizer.pad}
        write_json(folder / "generation_config.json", {**ends, "do_sample": True, "temperature": 1.0})
    write_json(folder / "config.json", fields)


def _hf_config(config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype, architecture: str) -> dict[str, Any]:
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"The tokenizer has {tokenizer.vocab_size} ids and the model only {config.vocab_size}; "
            "set the model's vocab_size to the tokenizer's."
        )
    common = {
        "architectures": [architecture],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_turn,
        "pad_token_id": tokenizer.pad,
        "initializer_range": 0.02,
        "use_cache": True,
    }
    return common | (_gpt2_fields(config) if config.layout == "gpt2" else _modern_fields(config))


def _gpt2_fields(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_positions": config.context,
        "n_layer": config.layers,
        "n_embd": config.d_model,
        "n_head": config.heads,
        "n_inner": config.d_ff,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
    }


def _modern_fields(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        "intermediate_size": config.d_ff,
        "rms_norm_eps": config.norm_eps,
        # transformers 4 and most servers read the first, transformers 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": config.dropout,
        "use_sliding_window": False,
    }


def _read_config(folder: Path, architectures: dict[Layout, str]) -> tuple[dict[str, Any], ModelConfig, Tokenizer]:
    if not folder.is_dir():
        raise UserError(f"There is no model folder {folder}.")
    path = folder / "config.json"
    fields = read_json(path)
    named = fields.get("architectures") if isinstance(fields, dict) else None
    layouts = {architecture: layout for layout, architecture in architectures.items()}
    if not isinstance(named, list) or len(named) != 1 or named[0] not in layouts:
        raise UserError(f"{path} names the architecture {named!r}; this can be read: {', '.join(layouts)}.")
    config = _our_config(fields, layouts[named[0]], path)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model only {config.vocab_size}; "
            "they are not of the same model."
        )
    return fields, config, tokenizer


def _our_config(fields: Mapping[str, Any], layout: Layout, path: Path) -> ModelConfig:
    for key, allowed in _FIXED[layout].items():
        if fields.get(key, allowed[0]) not in allowed:
            raise UserError(f"{path}: {key}={fields[key]!r} is not supported; only {allowed[0]!r} is.")
    try:
        return preset(layout, **(_gpt2_sizes(fields) if layout == "gpt2" else _modern_sizes(fields)))
    except KeyError as error:
        raise UserError(f"{path} lacks the field {error.args[0]!r}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _gpt2_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {
        "vocab_size": fields["vocab_size"],
        "context": fields["n_positions"],
        "layers": fields["n_layer"],
        "d_model": fields["n_embd"],
        "heads": fields["n_head"],
        "norm_eps": fields.get("layer_norm_epsilon", 1e-5),  # absent: the default of transformers' GPT2Config
        "dropout": fields.get("resid_pdrop", 0.1),  # likewise
        "tied": fields.get("tie_word_embeddings", True),
    }
    return sizes | ({"d_ff": fields["n_inner"]} if fields.get("n_inner") is not None else {})


def _modern_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    rope = fields.get("rope_parameters", {})
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise UserError(f"rope_parameters={rope!r} is not supported; only the rope_type 'default' is.")
    return {
        "vocab_size": fields["vocab_size"],
        "context": fields["max_position_embeddings"],
        "layers": fields["num_hidden_layers"],
        "d_model": fields["hidden_size"],
        "heads": fields["num_attention_heads"],
        "kv_heads": fields["num_key_value_heads"],
        "d_head": fields["head_dim"],
        "d_ff": fields["intermediate_size"],
        "norm_eps": fields["rms_norm_eps"],
        "rope_theta": fields["rope_theta"] if "rope_theta" in fields else rope["rope_theta"],
        "dropout": fields.get("attention_dropout", 0.0),
        "tied": fields.get("tie_word_embeddings", False),  # absent: the default of transformers
    }


def _read_tensors(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of model.safetensors, which are exactly those expected. UserError otherwise."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}); copy or make it again.") from None
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise UserError(f"{path} lacks {_some(missing)}, which its config.json asks for.")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise UserError(f"{path} has {_some(extra)}, for which its config.json has no place.")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{path}: {name} has the shape {tuple(tensors[name].shape)}; config.json asks for {shape}.")
    return tensors


def _some(names: list[str]) -> str:
    return f"the tensor {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
