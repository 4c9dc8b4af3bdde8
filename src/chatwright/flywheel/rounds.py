"""``chatwright rounds``: a recipe's rounds as instances of stages, brought about one after another, and their table.

A round is five of them, or six with people; round 2, for example:

    compare@round2   answers of round 1's policy, ranked        reads ppo@round1, conversations
    pool@round2      all comparisons so far                     reads compare@round1, compare@round2
    reward@round2    a new reward model of all of them          reads sft, pool@round2, conversations
    ppo@round2       a new policy, its KL measured from SFT     reads sft, reward@round2, conversations, shards
    match@round2     the new policy against the others          reads ppo@round2, ppo@round1, sft, conversations

With a gate there is one more, and what reads ppo@round1 here reads best@round1:

    best@round2      the winner of the match                    reads ppo@round2, best@round1, match@round2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.table import Table

from chatwright.errors import UserError
from chatwright.flow.manifest import read_manifest
from chatwright.flow.recipe import Instance, Recipe
from chatwright.flow.run import Outcome, run_recipe
from chatwright.flywheel import best, match, people, pool
from chatwright.flywheel.best import BestConfig
from chatwright.flywheel.match import MatchConfig
from chatwright.flywheel.people import OFFERED, PeopleConfig
from chatwright.stage import StageConfig
from chatwright.training.compare import CompareConfig
from chatwright.training.ppo.config import PpoConfig
from chatwright.training.reward import RewardConfig
from chatwright.training.rewards import models_of

ConfigT = TypeVar("ConfigT", bound=StageConfig)


@dataclass(frozen=True)
class Waiting:
    """A round that cannot go on before people have ranked ``offered`` into ``rankings``."""

    round: int
    offered: Path
    rankings: Path


@dataclass(frozen=True)
class Unfolded:
    """A recipe with the instances of its rounds, the last one of each round, and what a round lacks to go on.

    lacks: the round's number and the file of rankings that is not there.
    """

    recipe: Recipe
    targets: tuple[str, ...]
    lacks: tuple[int, Path] | None


@dataclass(frozen=True)
class Ran:
    """How a call ended: what was brought about, a row for each finished round, and what it waits for, if anything."""

    outcomes: list[Outcome]
    rows: list[dict[str, Any]]
    waiting: Waiting | None


class Source(Protocol):
    """Where a round's comparisons come from."""

    def instances(self, number: int, policy: str, config: CompareConfig) -> list[Instance]:
        """Stages that end with comparisons of ``policy``'s answers; as far as can be gone now."""

    def waits_for(self, number: int) -> Path | None:
        """The file without which a round's comparisons cannot be had, while it is not there."""


class Simulated:
    """The simulated labeller ranks at once: the stage ``compare``."""

    def __init__(self, compare: Instance) -> None:
        """``compare``: the recipe's own instance."""
        self._compare = compare

    def instances(self, number: int, policy: str, config: CompareConfig) -> list[Instance]:
        """``compare`` alone."""
        reads = {"sft": policy, "conversations": "conversations"}
        return [Instance(at("compare", number), self._compare.stage, config, reads)]

    def waits_for(self, number: int) -> None:
        """Nothing."""


class People:
    """People rank what ``offer`` laid out, and give their rankings back as a file a round."""

    def __init__(self, rankings: Path) -> None:
        """``rankings``: the files' path, with ``{round}`` in its name."""
        self._rankings = rankings

    def instances(self, number: int, policy: str, config: CompareConfig) -> list[Instance]:
        """``offer`` and, where the round's file is there, ``people``."""
        reads = {"sft": policy, "conversations": "conversations"}
        found = [Instance(at("offer", number), people.OFFER, config, reads)]
        if self.waits_for(number) is None:
            rankings = PeopleConfig(seed=config.seed, data=self._file(number))
            found.append(Instance(at("people", number), people.PEOPLE, rankings, {"offer": at("offer", number)}))
        return found

    def waits_for(self, number: int) -> Path | None:
        """The round's file of rankings."""
        return None if self._file(number).is_file() else self._file(number)

    def _file(self, number: int) -> Path:
        return self._rankings.with_name(self._rankings.name.replace("{round}", str(number)))


def at(stage: str, number: int) -> str:
    """The name of a round's instance of a stage.

    >>> at("ppo", 2)
    'ppo@round2'
    """
    return f"{stage}@round{number}"


def unfold(recipe: Recipe, rounds: int) -> Unfolded:
    """Add the rounds to a recipe, as far as there are rankings.

    Raises UserError when the recipe leaves out a stage that rounds are made of, or has instances of these names.
    """
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: there must be at least one round.")
    by_name = {instance.name: instance for instance in recipe.instances}
    for stage in ("conversations", "shards", "sft", "compare", "reward", "ppo"):
        if stage not in by_name:
            raise UserError(f"{recipe.path}: rounds need {stage}, which `stages` leaves out; add {stage!r} to it.")
    if _config(by_name, "reward", RewardConfig).data is not None:
        raise UserError(f"{recipe.path}: [reward] data would take the place of the rounds' comparisons; leave it out.")
    ppo = _config(by_name, "ppo", PpoConfig)
    others = [name for name in models_of(ppo.rewards) if name != "reward"]
    if others:
        raise UserError(
            f"{recipe.path}: a round trains one reward model, and [ppo] rewards name {others[0]}; leave it out."
        )
    source: Source = Simulated(by_name["compare"])
    if recipe.rounds.people is not None:
        source = People(recipe.rounds.people)
    instances, targets, pooled = list(recipe.instances), list[str](), dict[str, str]()
    for number in range(1, rounds + 1):
        newest = "ppo" if recipe.rounds.gate is None else "best"
        before = at(newest, number - 1) if number > 1 else ppo.start
        compared = source.instances(number, before, _compared(recipe, by_name, number))
        pooled[f"round{number}"] = compared[-1].name
        rankings = source.waits_for(number)
        round_ = compared if rankings else [*compared, *_learned(recipe, by_name, number, before, dict(pooled))]
        taken = [instance.name for instance in round_ if instance.name in by_name]
        if taken:
            raise UserError(f"{recipe.path}: {taken[0]} is a round's; give that variant another name.")
        instances += round_
        targets.append(round_[-1].name)
        if rankings:
            return Unfolded(_with(recipe, instances), tuple(targets), (number, rankings))
    return Unfolded(_with(recipe, instances), tuple(targets), None)


def _with(recipe: Recipe, instances: Sequence[Instance]) -> Recipe:
    """The recipe with those of its rounds after its own."""
    beside = tuple(instance.name for instance in instances if instance.name not in recipe.names)
    return replace(recipe, instances=tuple(instances), beside=beside)


def _compared(recipe: Recipe, by_name: Mapping[str, Instance], number: int) -> CompareConfig:
    """How a round's answers are drawn: each round goes on where the prompts of the one before ended."""
    config = _config(by_name, "compare", CompareConfig)
    prompts = recipe.rounds.prompts or config.prompts
    offset = config.offset + (number - 1) * (prompts or 0)
    return config.model_copy(update={"prompts": prompts, "offset": offset})


def _learned(
    recipe: Recipe, by_name: Mapping[str, Instance], number: int, before: str, pooled: Mapping[str, str]
) -> list[Instance]:
    """From a round's comparisons to its match, and to the winner of that."""
    reward, ppo = by_name["reward"], by_name["ppo"]
    config = _config(by_name, "ppo", PpoConfig)
    shared = {"conversations": "conversations"}
    start = {"policy": before} if recipe.rounds.start == "previous" and number > 1 else {}
    played = MatchConfig(
        seed=config.seed,
        prompts=recipe.rounds.match_prompts,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
    )
    against = {"policy": at("ppo", number), "previous": before, "sft": config.start}
    found = [
        Instance(at("pool", number), pool.STAGE, StageConfig(seed=config.seed), pooled),
        Instance(
            at("reward", number),
            reward.stage,
            reward.config,
            {**_own(reward), "compare": at("pool", number)},
        ),
        Instance(
            at("ppo", number),
            ppo.stage,
            ppo.config,
            {**_own(ppo), "reward": at("reward", number), **start},
        ),
        Instance(at("match", number), match.STAGE, played, {**against, **shared}),
    ]
    if recipe.rounds.gate is not None:
        gate = BestConfig(seed=config.seed, gate=recipe.rounds.gate)
        contest = {"policy": at("ppo", number), "previous": before, "match": at("match", number)}
        found.append(Instance(at("best", number), best.STAGE, gate, contest))
    return found


def _own(instance: Instance) -> dict[str, str]:
    """The parts as the recipe's own instance has them."""
    return instance.config.reads(instance.stage.inputs)


def _config(by_name: Mapping[str, Instance], name: str, kind: type[ConfigT]) -> ConfigT:
    config = by_name[name].config
    assert isinstance(config, kind)
    return config


def run_rounds(recipe: Recipe, out: Path, rounds: int) -> Ran:
    """Bring ``rounds`` rounds about in ``out``, or as many as people have ranked. Done ones are skipped."""
    unfolded = unfold(recipe, rounds)
    outcomes = run_recipe(unfolded.recipe, out, unfolded.targets)
    waiting = None
    if unfolded.lacks is not None:
        number, rankings = unfolded.lacks
        waiting = Waiting(number, out / at("offer", number) / OFFERED, rankings)
    finished = range(1, waiting.round if waiting else rounds + 1)
    return Ran(outcomes, [read_row(out, n, gated=recipe.rounds.gate is not None) for n in finished], waiting)


def read_row(out: Path, number: int, *, gated: bool) -> dict[str, Any]:
    """What a finished round came to, flat; with a gate also whether its policy passed."""
    pooled, reward, ppo, played = (_headline(out / at(stage, number)) for stage in ("pool", "reward", "ppo", "match"))
    return {
        "round": number,
        "comparisons": pooled["comparisons"],
        "reward_accuracy": reward.get("accuracy", reward["accuracy_labels"]),  # by gold, where it is known
        **{key: value for key, value in played.items() if key not in ("prompts", "eos_rate")},
        "ptx_tax": ppo.get("ptx_tax"),
        "policy": str(out / at("ppo", number)),
        **({"promoted": _headline(out / at("best", number))["promoted"]} if gated else {}),
    }


def _headline(folder: Path) -> dict[str, Any]:
    made = read_manifest(folder)
    assert made is not None, folder
    return made.headline


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rounds for a person to read."""
    shown = Table(title="Rounds", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("round", "comparisons", "reward accuracy", "gold", "wins over SFT", "over the round before", "KL"):
        shown.add_column(column, justify="right")
    if any("promoted" in row for row in rows):
        shown.add_column("goes on", justify="right")
    for row in rows:
        shown.add_row(
            str(row["round"]),
            f"{row['comparisons']:,}",
            f"{row['reward_accuracy']:.3f}",
            f"{row['gold']:.2f} (SFT {row['gold_sft']:.2f})",
            _rate(row, "sft"),
            _rate(row, "previous"),
            f"{row['kl']:.1f}",
            *(["yes" if row["promoted"] else "no"] if "promoted" in row else []),
        )
    return shown


def _rate(row: Mapping[str, Any], opponent: str) -> str:
    rate, low, high = (row[f"win_rate_{opponent}{end}"] for end in ("", "_low", "_high"))
    return f"{rate:.1%} ({low:.0%} to {high:.0%})"
