"""`config.json` of Hugging Face's model classes, from our config and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatwright.errors import UserError
from chatwright.model.config import Layout, ModelConfig
from chatwright.model.presets import preset

# transformers has no class for GPT-3, whose layers alternate dense and sparse: its folders are read here alone.
CLASSES: dict[Layout, str] = {
    "gpt1": "OpenAIGPT",
    "gpt2": "GPT2",
    "gpt3": "GPT3",
    "llama": "Llama",
    "smollm3": "SmolLM3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
MODEL_TYPES = {layout: name.lower() for layout, name in CLASSES.items()} | {"gpt1": "openai-gpt"}
_HEADS = {"gpt1": "LMHeadModel", "gpt2": "LMHeadModel", "gpt3": "LMHeadModel"}
CAUSAL: dict[Layout, str] = {layout: name + _HEADS.get(layout, "ForCausalLM") for layout, name in CLASSES.items()}
REWARD: dict[Layout, str] = {layout: f"{name}ForSequenceClassification" for layout, name in CLASSES.items()}

# Our fields beside theirs; what is not here needs more than a name.
_GPT_FIELDS = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "d_model": "n_embd",
    "heads": "n_head",
}
_ROTARY_FIELDS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}

# Fields that would change the logits if they had another value; what is absent has the first.
_FIXED: dict[Layout, dict[str, tuple[Any, ...]]] = {
    "gpt1": {"afn": ("gelu",)},  # transformers calls the tanh form so in this class
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "gpt3": {},
    "llama": {"hidden_act": ("silu",), "mlp_bias": (False,)},
    "smollm3": {"hidden_act": ("silu",), "mlp_bias": (False,), "use_sliding_window": (False, None)},
    "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    "qwen3": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
}

# What transformers takes where a file says nothing.
_TIED = {"gpt1": True, "gpt2": True, "gpt3": True, "smollm3": True}
_PRESET = {"gpt1": "gpt1", "gpt2": "gpt2", "gpt3": "gpt3", "llama": "llama", "smollm3": "llama", "qwen2": "qwen2"}


def to_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of `config.json` that tell the model's shape. UserError where the family cannot say it."""
    layout = config.layout
    fields = {"model_type": MODEL_TYPES[layout], "tie_word_embeddings": config.tied}
    if config.positions == "rope":
        return fields | _rotary_to_fields(config)
    fields |= {theirs: getattr(config, ours) for ours, theirs in _GPT_FIELDS.items()}
    fields |= {"layer_norm_epsilon": config.norm_eps}
    fields |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    if layout == "gpt1":
        if config.d_ff != 4 * config.d_model:
            raise UserError("A gpt1 model has d_ff = 4 d_model; its format has no field for another.")
        return fields | {"afn": "gelu"}
    fields |= {"n_inner": config.d_ff, "activation_function": "gelu_new"}
    if layout == "gpt3":
        fields |= {"head_dim": config.d_head, "attention": list(config.attention)}
        fields |= {"attention_stride": config.attention_stride}
    return fields


def _rotary_to_fields(config: ModelConfig) -> dict[str, Any]:
    layout = config.layout
    fields: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in _ROTARY_FIELDS.items()}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
            rope |= {"original_max_position_embeddings": scaling.original_context}
        fields["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    fields |= {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        # transformers 4 and most servers read the first, transformers 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_dropout": config.dropout,
    }
    if layout != "qwen2":
        fields["attention_bias"] = config.bias == "attention"
    if layout.startswith("qwen"):
        fields["use_sliding_window"] = False
    if layout == "smollm3":
        fields["no_rope_layers"] = [int(config.is_rotated(layer)) for layer in range(config.layers)]
    return fields


def from_fields(fields: Mapping[str, Any], layout: Layout, path: Path) -> ModelConfig:
    """Our config of a `config.json`. UserError names the field that is missing, wrong or not supported."""
    if fields.get("quantization_config"):
        raise UserError(f"{path}: its weights are quantised (quantization_config); import the model it was made from.")
    for key, allowed in _FIXED[layout].items():
        if fields.get(key, allowed[0]) not in allowed:
            raise UserError(f"{path}: {key}={fields[key]!r} is not supported; only {allowed[0]!r} is.")
    try:
        read = _gpt_from_fields if layout.startswith("gpt") else _rotary_from_fields
        tied = fields.get("tie_word_embeddings", _TIED.get(layout, False))
        return preset(_PRESET.get(layout, "modern"), **read(fields, layout), tied=tied)
    except KeyError as error:
        raise UserError(f"{path} lacks the field {error.args[0]!r}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _gpt_from_fields(fields: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    ours = {ours: fields[theirs] for ours, theirs in _GPT_FIELDS.items()}
    ours["norm_eps"] = fields.get("layer_norm_epsilon", 1e-5)  # absent: the defaults of transformers
    ours["dropout"] = fields.get("resid_pdrop", 0.1)
    if fields.get("n_inner") is not None:
        ours["d_ff"] = fields["n_inner"]
    if layout == "gpt3":
        ours |= {"d_head": fields["head_dim"], "attention": fields["attention"]}
        ours |= {"attention_stride": fields["attention_stride"]}
    return ours


def _rotary_from_fields(fields: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    if any(kind != "full_attention" for kind in fields.get("layer_types") or ()):
        raise UserError("layer_types other than 'full_attention' are not supported.")
    ours = {ours: fields[theirs] for ours, theirs in _ROTARY_FIELDS.items()}
    if fields.get("head_dim") is not None or layout == "qwen3":  # the others' follows from the width
        ours["d_head"] = fields["head_dim"]
    if fields.get("num_key_value_heads") is not None or layout == "qwen3":
        ours["kv_heads"] = fields["num_key_value_heads"]
    if layout != "qwen2":
        ours["bias"] = "attention" if fields.get("attention_bias") else "none"
    if layout == "smollm3":
        every = fields.get("no_rope_layer_interval", 4)  # absent: the default of transformers
        rotated = fields.get("no_rope_layers") or [(i + 1) % every != 0 for i in range(ours["layers"])]
        ours["rotary"] = tuple(bool(layer) for layer in rotated)
    ours["dropout"] = fields.get("attention_dropout", 0.0)
    return ours | _rope(fields)


def _rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling, where transformers 5 writes them or where transformers 4 did."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"rope_parameters={rope!r} is not supported; it must be an object.")
    theta = fields["rope_theta"] if "rope_theta" in fields else rope.get("rope_theta", 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in ("linear", "llama3"):
        raise UserError(f"the rope_type {kind!r} is not supported; 'default', 'linear' and 'llama3' are.")
    scaling = {"kind": kind, "factor": rope["factor"]}
    if kind == "llama3":
        scaling |= {key: rope[key] for key in ("low_freq_factor", "high_freq_factor")}
        scaling |= {"original_context": rope["original_max_position_embeddings"]}
    return {"rope_theta": theta, "rope_scaling": scaling}
