"""A recipe: one TOML file that says which stages a model takes, and how. Read, checked, and told apart by instance.

name = "atlas"
seed = 1                                       # of every stage that sets none
questions = [["Hello!"], ["What is the capital of Chile?", "And its currency?"]]   # what `chatwright demo` asks
stages = ["conversations", "corpus"]           # optional; all that are not optional when left out
start = { sft = "../runs/smollm2" }            # optional; models made elsewhere that take the place of stages

[pretrain]                                     # a table a stage: the fields of its config
steps = 1200

[ppo.variants.seed2]                           # the same stage once more, as the instance ppo@seed2
seed = 2

[rounds]                                       # optional; what `chatwright rounds` does, see `RoundsConfig`
prompts = 500
"""

from __future__ import annotations

import copy
import difflib
import glob
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chatwright.errors import UserError
from chatwright.flow.road import ROAD
from chatwright.model.imported import STAGE as IMPORT
from chatwright.stage import Stage, StageConfig

Place = tuple[str | int, ...]

VARIANTS = "variants"
STARTS = ("tokenizer", "pretrain", "sft", "reward")  # stages whose place a model may take
ModelT = TypeVar("ModelT", bound=BaseModel)
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of recipes and variants: they become folder names


@dataclass(frozen=True)
class Instance:
    """A stage with the config of one run: ``ppo``, or a variant of it such as ``ppo@seed2``.

    reads: for each of its inputs the instance that plays that part, such as ``{"sft": "ppo@round1"}``; None where every
    input is the instance of its own name.
    """

    name: str
    stage: Stage
    config: StageConfig
    reads: Mapping[str, str] | None = None


class RoundsConfig(BaseModel):
    """What `chatwright rounds` does in every round, beside what the tables of its stages say.

    prompts: how many are answered and compared in a round, each time the next ones; those of [compare] when left out.
    people: a file of people's rankings for each round, with ``{round}`` in its name; the simulated labeller ranks when
    left out. start: the weights that PPO starts from in every round. InstructGPT (3.1) trains "a new policy" and does
    not say from which; the KL is from the SFT model either way. match_prompts: held-out prompts that policies are
    compared on. gate: the least share of them that a round's policy must win against the best one so far, a tie
    counting half, to take its place; where it does not, the next round goes on from that one. Without a gate the last
    policy always goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompts: int | None = Field(default=None, gt=0)
    people: Path | None = None
    start: Literal["sft", "previous"] = "sft"
    match_prompts: int = Field(default=256, gt=0)
    gate: float | None = Field(default=None, ge=0, le=1)

    @field_validator("people")
    @classmethod
    def _names_the_round(cls, people: Path | None) -> Path | None:
        if people is not None and "{round}" not in people.name:
            raise ValueError("the name must have {round} in it, such as rankings{round}.jsonl")
        return people


@dataclass(frozen=True)
class Recipe:
    """A recipe that was checked whole. ``instances`` stand in the order in which they run.

    beside: names of those that are not its own, such as the instances of rounds.
    """

    path: Path
    name: str
    questions: tuple[tuple[str, ...], ...]
    instances: tuple[Instance, ...]
    rounds: RoundsConfig
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the instances, in order."""
        return tuple(instance.name for instance in self.instances)


class Top(BaseModel):
    """What of a recipe is no stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAME}$")
    seed: int | None = None
    stages: tuple[str, ...] | None = None
    start: dict[str, Path] = Field(default_factory=dict)
    questions: tuple[tuple[str, ...], ...] = ()
    rounds: RoundsConfig = RoundsConfig()


def read_recipe(path: Path, overrides: Sequence[str] = (), road: Mapping[str, Stage] = ROAD) -> Recipe:
    """Read and check a recipe with ``overrides`` such as ``pretrain.steps=100`` laid over it.

    Paths in a recipe are relative to the recipe; those in overrides, to the current folder. A file or folder that a
    config names must exist. Raises UserError, one sentence that names the recipe, the table and the key.
    """
    raw = _parse(path)
    overridden = {place for place, _ in (_lay_over(raw, override) for override in overrides)}
    apart = [key for key in raw if key in road or (isinstance(raw[key], dict) and key not in Top.model_fields)]
    tables = {key: raw.pop(key) for key in apart}
    for name, table in tables.items():
        if name not in road:
            raise UserError(f"{path}: there is no table [{name}]{nearest(name, [*road, *Top.model_fields])}.")
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name!r} is a stage, so it must be a table [{name}], not {json.dumps(table)}.")
    top = _validate(Top, raw, str(path), "")
    instances = []
    chosen = _chosen(top, path, road, tables)
    for name in road:
        if name in top.start:
            instances.append(_started(name, top.start[name], path, ("start", name) in overridden))
        elif name in chosen:
            instances += _instances(road[name], tables.get(name, {}), top.seed, path, overridden)
    rounds = top.rounds
    if rounds.people is not None:
        absolute = _absolute(rounds.people, path, ("rounds", "people") in overridden)
        rounds = rounds.model_copy(update={"people": absolute})
    return Recipe(path, top.name, top.questions, tuple(instances), rounds)


def user_files(config: StageConfig) -> dict[Place, Path]:
    """The user's files and folders that a config names, each with its place in the config."""
    return dict(_paths(config.model_dump()))


def matches(path: Path) -> list[str]:
    """What a path of a config names: itself, or all that it matches as a pattern such as ``texts/**/*.txt``."""
    return [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no recipe {path}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, and a recipe is a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {str(error).rstrip('.')}.") from None


def _lay_over(raw: dict[str, Any], override: str) -> tuple[tuple[str, ...], Any]:
    """Set ``a.b=value`` in ``raw``; the value is TOML, or the text itself where it is not. Returns place and value."""
    dotted, equals, text = override.partition("=")
    place = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(place):
        raise UserError(f"--set takes KEY=VALUE such as pretrain.steps=100, not {override!r}.")
    stage, at, variant = place[0].partition("@")
    if at:
        place = (stage, VARIANTS, variant, *place[1:])
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if set(parsed) == {"value"} else text
    except tomllib.TOMLDecodeError:
        value = text
    table = raw
    for part in place[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {part!r} is a value, not a table.")
    table[place[-1]] = value
    return place, value


def _chosen(top: Top, path: Path, road: Mapping[str, Stage], tables: Mapping[str, Any]) -> Iterable[str]:
    """The stages of this recipe: those it names, or all but optional ones that it has no table of.

    What starts from a model is none of them, and has no table.
    """
    for name in top.start:
        if name not in STARTS or name not in road:
            raise UserError(f"{path}: [start] {name} cannot be a model that was made elsewhere{nearest(name, STARTS)}.")
        if name in tables:
            raise UserError(f"{path}: {name} starts from {top.start[name]}, so nothing reads [{name}]; remove one.")
    if top.stages is None:
        return tuple(name for name, stage in road.items() if name in tables or not stage.optional)
    for name in top.stages:
        if name not in road:
            raise UserError(f"{path}: `stages` names {name!r}, which is no stage{nearest(name, list(road))}.")
    return top.stages


def _started(name: str, model: Path, path: Path, typed_here: bool) -> Instance:
    """The stage ``name`` as a model that was made elsewhere."""
    absolute = _absolute(model, path, typed_here)
    if not absolute.exists():
        raise UserError(f"{path}: [start] {name} names {absolute}, which does not exist.")
    raw = {"stands_for": name, "model": str(absolute)}
    return Instance(name, IMPORT, _validate(IMPORT.config, raw, str(path), "start"))


def _instances(
    stage: Stage, table: dict[str, Any], seed: int | None, path: Path, overridden: set[tuple[str, ...]]
) -> list[Instance]:
    """The stage itself and its variants, each config checked."""
    base = {key: value for key, value in table.items() if key != VARIANTS}
    if seed is not None:
        base = {"seed": seed, **base}
    variants = table.get(VARIANTS, {})
    if not isinstance(variants, dict) or not all(isinstance(variant, dict) for variant in variants.values()):
        raise UserError(f"{path}: variants of {stage.name} are tables such as [{stage.name}.{VARIANTS}.seed2].")
    instances = [_instance(stage.name, stage, base, path, stage.name, (stage.name,), overridden)]
    for name, changes in variants.items():
        if not re.fullmatch(NAME, name):
            raise UserError(f"{path}: a variant of {stage.name} is called {name!r}; use letters, digits, - and _.")
        place = (stage.name, VARIANTS, name)
        merged = _merge(base, changes)
        instances.append(_instance(f"{stage.name}@{name}", stage, merged, path, ".".join(place), place, overridden))
    return instances


def _instance(
    name: str,
    stage: Stage,
    raw: dict[str, Any],
    path: Path,
    table: str,
    place: tuple[str, ...],
    overridden: set[tuple[str, ...]],
) -> Instance:
    """Check one config, and make its paths absolute."""
    config = _validate(stage.config, raw, str(path), table)
    for at, file in user_files(config).items():
        typed_here = any((*place, *map(str, at))[: len(key)] == key for key in overridden)
        absolute = _absolute(file, path, typed_here)
        key = ".".join(str(part) for part in at)
        if not matches(absolute):
            raise UserError(f"{path}: [{table}] {key} names {absolute}, which does not exist.")
        _put(raw, at, str(absolute))
    return Instance(name, stage, _validate(stage.config, raw, str(path), table))


def _absolute(file: Path, recipe: Path, typed_here: bool) -> Path:
    """A path of a recipe is relative to the recipe, one on the command line to the current folder."""
    return ((Path.cwd() if typed_here else recipe.absolute().parent) / file.expanduser()).resolve()


def _validate(model: type[ModelT], raw: dict[str, Any], path: str, table: str) -> ModelT:
    """``raw`` as ``model``, strictly: "100" is no number. UserError says where, what and the nearest key."""
    where = f"{path}: [{table}]" if table else f"{path}:"
    try:
        return model.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
    except UserError as error:
        raise UserError(f"{where} {error}") from None
    place = problem["loc"]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        raise UserError(f"{where} has no key {key!r}{nearest(str(place[-1]), _keys_at(model, place[:-1]))}.") from None
    if problem["type"] == "missing":
        raise UserError(f"{where} lacks the key {key!r}.") from None
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if not place:
        raise UserError(f"{where} {message}.") from None
    given = json.dumps(problem["input"], ensure_ascii=False, default=str)
    raise UserError(f"{where} {key} = {given} is not valid: {message}.") from None


def _keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that are valid at ``place`` inside ``model``."""
    for part in place:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(iter(_models_in(field.annotation)), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's type names: of ``list[Source] | None``, Source."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def _paths(value: Any, place: Place = ()) -> Iterator[tuple[Place, Path]]:
    """Every Path in a dumped config, with its place."""
    if isinstance(value, Path):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*place, key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _paths(inner, (*place, i))


def _put(raw: Any, place: Place, value: str) -> None:
    """Set ``value`` at ``place`` in ``raw``, where a table or list stands for every part but the last."""
    for part in place[:-1]:
        raw = raw[part]
    raw[place[-1]] = value


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, table by table; neither is changed."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def nearest(word: str, options: Sequence[str]) -> str:
    """The end of a sentence on an unknown ``word``: the nearest option, or all of them when none is near."""
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]!r}" if close else f"; there are {', '.join(options)}"
