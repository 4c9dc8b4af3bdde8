"""The model that a path means, loaded and ready to answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion, Delta
from chatwright.inference.sampling import Sampling
from chatwright.inference.serving import ServedEngine
from chatwright.inference.weights import precision_named
from chatwright.model.folder import load_model
from chatwright.storage import file_digest
from chatwright.tokenizer.bpe import Tokenizer

WAITING = 256  # requests before the engine; more are turned away
FINISHED_STAGES = ("ppo", "grpo", "dpo", "choose", "sft", "pretrain")  # of a run, best first


class Streams(Protocol):
    """What the service needs of an engine: text as it is made; the generator returns the whole `Completion`."""

    def stream(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]
    ) -> Generator[str, None, Completion]:
        """Yield the answer's text in valid UTF-8 pieces until the end of the turn, or until `stopped()`."""

    def begin(
        self,
        prompt: list[int],
        sampling: Sampling,
        listener: Callable[[Delta, Completion | BaseException | None], None],
    ) -> Callable[[], None]:
        """Have the answer told to a listener, in another thread; returns at once, with what drops it.

        The listener is called with what is new and None, and at last with the completion or what went wrong.
        """


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that is needed to talk to it.

    context: the most tokens of a conversation and its answer together. fingerprint: changes when the weights change.
    created: when the weights were written, in seconds since 1970.
    """

    name: str
    engine: Streams
    tokenizer: Tokenizer
    context: int
    fingerprint: str
    created: int


def resolve_model(path: Path) -> tuple[str, Path]:
    """The name and the folder of the model that `path` means: a model folder, or a run folder's furthest model.

    `runs/atlas` has the name `atlas` and is its `ppo` stage if that is finished, else `sft`, else `pretrain`. UserError
    when there is no model.
    """
    path = Path(path)
    name = path.resolve().name
    if (path / "config.json").is_file():
        return name, path
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; make a model first with `chatwright run recipes/atlas.toml --out {path}`."
        )
    for stage in FINISHED_STAGES:
        folder = path / stage
        if (folder / "manifest.json").is_file() and (folder / "config.json").is_file():
            return name, folder
    raise UserError(
        f"{path} holds no finished model: it is neither a model folder nor a run whose pretrain stage is done; "
        f"finish it with `chatwright run recipes/atlas.toml --out {path}`."
    )


def load(path: Path, precision: str | None = None) -> LoadedModel:
    """Load the model that `path` means, its weights as they are or in ``precision``.

    UserError when there is none or it is broken.
    """
    chosen = None if precision is None else precision_named(precision)
    name, folder = resolve_model(path)
    decoder, tokenizer = load_model(folder)
    tokenizer.chat_template  # noqa: B018  refuses a model that cannot converse before anybody asks it anything
    weights = folder / "model.safetensors"
    return LoadedModel(
        name=name,
        engine=ServedEngine(Engine(decoder, tokenizer, precision=chosen, waiting=WAITING)),
        tokenizer=tokenizer,
        context=decoder.config.context,
        fingerprint=f"fp_{file_digest(weights)}",
        created=int(weights.stat().st_mtime),
    )


def load_all(paths: Sequence[Path], precision: str | None = None) -> dict[str, LoadedModel]:
    """The models that paths mean, by name, in that order. UserError when two have one name, before any is loaded."""
    names: dict[str, Path] = {}
    for path in paths:
        name, _ = resolve_model(path)
        if name in names:
            raise UserError(f"{names[name]} and {path} both have the name {name}; rename one of the folders.")
        names[name] = path
    return {name: load(path, precision) for name, path in names.items()}
