"""The way in and out: other people's models become model folders, and model folders become files for other programs."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from chatwright.errors import UserError
from chatwright.model.config import parameter_count
from chatwright.model.decoder import Decoder
from chatwright.model.folder import PLAIN_SAMPLING, load_model, save_model
from chatwright.storage import read_json, whole_folder
from chatwright.tokenizer.bpe import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?:/[\w./-]+\.gguf)?")
_READ = ["*.json", "*.safetensors", "*.jinja"]  # of a repository; nothing else is ever opened
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


@dataclass(frozen=True)
class Written:
    """What an import or an export wrote. parameters: with the embeddings. stops: the tokens that end an answer."""

    path: Path
    layout: str
    parameters: int
    context: int
    vocabulary: int
    dtype: str
    chat_template: bool
    stops: list[str]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "path": str(self.path)}

    def as_text(self) -> str:
        """For people."""
        talk = "its own chat template" if self.chat_template else "no chat template: it only continues text"
        ends = f"at {' or '.join(self.stops)}" if self.stops else "nowhere by themselves"
        return (
            f"{self.path}: {self.layout}, {self.parameters:,} parameters as {self.dtype}, context {self.context:,}, "
            f"{self.vocabulary:,} tokens; {talk}; answers end {ends}."
        )


def import_model(source: str, out: Path, dtype: str | None = None, revision: str | None = None) -> Written:
    """Write the model of ``source`` as a model folder: a Hugging Face folder, a GGUF file, or a name on the hub.

    dtype: of the written weights; left out, what they have, and float32 for quantised or mixed ones. revision: of a
    hub's repository. UserError says what is wrong; nothing is written then.
    """
    _check_new(out)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"There is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    with whole_folder(out) as partial:
        written = write_model(_found(source, revision), partial, dtype)
    return replace(written, path=out)


def write_model(path: Path, out: Path, dtype: str | None = None) -> Written:
    """Write the model of a Hugging Face folder or a GGUF file into the folder ``out``; see `import_model`."""
    if path.is_dir():
        _refuse_pickles(path)
        model, tokenizer = load_model(path)
        dtype = dtype or _stored_dtype(path)
        sampling = _sampling(path)
    else:
        from chatwright.model.gguf import read_gguf  # needs the package gguf

        model, tokenizer = read_gguf(path)
        dtype, sampling = dtype or "float32", PLAIN_SAMPLING
    save_model(model, out, tokenizer, DTYPES[dtype], sampling)
    return _described(out, model, tokenizer, dtype)


def export_model(folder: Path, out: Path, form: str, dtype: str | None = None, name: str | None = None) -> Written:
    """Write a model folder's model for other programs: a Hugging Face folder ("hf"), or a file for llama.cpp ("gguf").

    dtype: "float32", "bfloat16" or "float16" (left out: as it is), and for GGUF also a quantised one of
    `chatwright.model.gguf.WRITTEN`. UserError where the format has no such model; nothing is written then.
    """
    if form not in ("hf", "gguf"):
        raise UserError(f"There is no format {form!r}; choose hf or gguf.")
    _check_new(out)
    model, tokenizer = load_model(folder)
    dtype = dtype or _stored_dtype(folder)
    if form == "hf":
        if model.config.layout == "gpt3":
            raise UserError(
                "transformers has no class for GPT-3's alternating dense and sparse layers; "
                "the model folder itself is all there is to take along."
            )
        if dtype not in DTYPES:
            raise UserError(f"A Hugging Face folder holds {', '.join(DTYPES)}, not {dtype}; use --format gguf.")
        with whole_folder(out) as partial:
            save_model(model, partial, tokenizer, DTYPES[dtype], _sampling(folder))
    else:
        from chatwright.model.gguf import WRITTEN, write_gguf

        kinds = {_STORED.get(kind, kind.lower()): kind for kind in WRITTEN}
        if dtype not in kinds:
            raise UserError(f"A GGUF file can be written as {', '.join(kinds)}, not as {dtype}.")
        write_gguf(model, out, tokenizer, name or folder.resolve().name, kinds[dtype])
    return _described(out, model, tokenizer, dtype)


def _check_new(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; choose another place or delete it first.")


def _found(source: str, revision: str | None) -> Path:
    """The local folder or file that a source means, downloaded if it is a name on the hub."""
    path = Path(source)
    if path.is_dir() or path.is_file():
        return path
    if not _HUB_NAME.fullmatch(source):
        raise UserError(f"{source} does not exist here, and it is not a name on the Hugging Face hub (OWNER/NAME).")
    import huggingface_hub  # slow to import

    owner, name, *file = source.split("/", 2)
    try:
        if file:
            return Path(huggingface_hub.hf_hub_download(f"{owner}/{name}", file[0], revision=revision))
        return Path(huggingface_hub.snapshot_download(f"{owner}/{name}", revision=revision, allow_patterns=_READ))
    except Exception as error:  # the hub's own errors, those of the network, of the disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{source} does not exist here and cannot be downloaded from the hub ({reason.rstrip('.')})."
        ) from None


def _refuse_pickles(folder: Path) -> None:
    """UserError when a folder's weights are pickles only: reading one runs whatever code is in it."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} has its weights only in {pickles[0]}, a pickle, which can run any code when it is read; "
            "get the model as safetensors."
        )


def _stored_dtype(folder: Path) -> str:
    """The type of a folder's weights; float32 when they have several."""
    kinds = set()
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as tensors:
            kinds |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return _STORED.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def _sampling(folder: Path) -> dict[str, Any]:
    """What a model's makers recommend for sampling from it."""
    path = folder / "generation_config.json"
    fields = read_json(path) if path.is_file() else {}
    return {key: fields[key] for key in _SAMPLING if fields.get(key) is not None} or PLAIN_SAMPLING


def _described(path: Path, model: Decoder, tokenizer: Tokenizer, dtype: str) -> Written:
    names = {i: name for name, i in tokenizer.specials.items()}
    return Written(
        path=path,
        layout=model.config.layout,
        parameters=parameter_count(model.config),
        context=model.config.context,
        vocabulary=tokenizer.vocab_size,
        dtype=dtype,
        chat_template=tokenizer.template is not None,
        stops=[names.get(i, str(i)) for i in sorted(tokenizer.stops)],
    )
