"""Run a recipe: skip the stages that are done, resume the one that broke, make the others, and keep their manifests.

A stage is done when its manifest has the key that the recipe asks for. It is resumed when ``in_progress.json`` has that
key. Anything else in its folder is of another config and is cleared first.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from chatwright.flow import graph, manifest, planner
from chatwright.flow.folder import claimed
from chatwright.flow.manifest import IN_PROGRESS, MANIFEST, InProgress, Manifest
from chatwright.flow.recipe import Instance, Recipe, user_files
from chatwright.flow.workload import workloads
from chatwright.stage import PARTS, say
from chatwright.storage import write_json
from chatwright.training import world
from chatwright.training.runtime import prepare

State = Literal["done before", "made", "resumed"]


@dataclass(frozen=True)
class Outcome:
    """How an instance came to be finished in this run."""

    name: str
    state: State
    manifest: Manifest


def run_recipe(
    recipe: Recipe, out: Path, until: str | Sequence[str] | None = None, from_: str | None = None
) -> list[Outcome]:
    """Bring ``recipe`` to its end in ``out``, or to ``until``; ``from_`` and what is made from it are made anew.

    Among the processes that torchrun started, the first one decides what is to be done, does alone what one process
    does, and calls the others to what all do together (see `Stage`).

    Raises UserError when ``out`` is not this recipe's or when another process works in it.
    """
    if world.size() > 1:
        prepare()
        if not world.is_first():
            _follow(recipe, out)
            return []
    targets = (until,) if isinstance(until, str) else until
    wanted = graph.needed_for(recipe, graph.named(recipe, *targets)) if targets else recipe.names
    anew = graph.made_from(recipe, graph.named(recipe, from_)) if from_ else ()
    keys = graph.keys(recipe)
    workloads(recipe)  # a model that cannot be built is refused before anything is written
    with claimed(out, recipe):
        for name in anew:
            _undo(out / name)
        done = {name for name in wanted if _is_done(out / name, keys[name])}
        plan = planner.Plan(())
        if len(done) < len(wanted):
            plan = planner.make_plan(recipe, planner.measure())
            write_json(out / planner.PLAN, plan.seconds())
            planner.show(plan, wanted, done)
        outcomes = [
            _bring_about(instance, recipe, out, keys, f"{number}/{len(wanted)}")
            for number, instance in enumerate((i for i in recipe.instances if i.name in wanted), start=1)
        ]
    world.agree("")  # nothing more to do
    made = {outcome.name: outcome.manifest for outcome in outcomes if outcome.state != "done before"}
    if made:
        planner.show_actual(plan, made)
    return outcomes


def _follow(recipe: Recipe, out: Path) -> None:
    """Run the stages that the first process calls this one to, until it says that there are no more."""
    by_name = {instance.name: instance for instance in recipe.instances}
    while name := world.agree(""):
        instance = by_name[name]
        instance.stage.run(instance.config, _folders(instance, recipe, out), out / name)


def _folders(instance: Instance, recipe: Recipe, out: Path) -> dict[str, Path]:
    """The folder of each input of an instance."""
    return {part: out / name for part, name in graph.parts(recipe)[instance.name].items()}


def _is_done(folder: Path, key: str) -> bool:
    """Whether the stage is finished as asked for, and none of its files was removed since."""
    done = manifest.read_manifest(folder)
    return done is not None and done.key == key and all((folder / name).is_file() for name in done.files)


def _bring_about(instance: Instance, recipe: Recipe, out: Path, keys: dict[str, str], number: str) -> Outcome:
    """Skip, resume or make one instance."""
    folder, key = out / instance.name, keys[instance.name]
    done = manifest.read_manifest(folder)
    if done is not None and _is_done(folder, key):
        (folder / IN_PROGRESS).unlink(missing_ok=True)  # a kill may have come between the two files
        say(f"{number} {instance.name}: done before")
        return Outcome(instance.name, "done before", done)
    progress = _begin(folder, key)
    say(f"{number} {instance.name}: {'resuming' if progress.attempt > 1 else instance.stage.summary}")
    made = _make(instance, recipe, out, keys, progress)
    say(f"{number} {instance.name}: finished in {made.seconds:.0f} s")
    return Outcome(instance.name, "resumed" if progress.attempt > 1 else "made", made)


def _begin(folder: Path, key: str) -> InProgress:
    """Prepare the folder: as the broken attempt left it when it was of the same key, else empty."""
    before = manifest.read_in_progress(folder)
    if before is not None and before.key == key:
        for partial in list(folder.rglob(".*.partial")):
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink(missing_ok=True)
        spent = before.seconds_before + max(0.0, _last_sign_of_life(folder) - before.attempt_began)
        progress = before.model_copy(
            update={"attempt": before.attempt + 1, "attempt_began": time.time(), "seconds_before": spent}
        )
    else:
        _undo(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        progress = InProgress(key=key, started=_now(), attempt=1, attempt_began=time.time(), seconds_before=0.0)
    manifest.write(folder, progress)
    return progress


def _undo(folder: Path) -> None:
    """Make a stage undone. Before its other files go, so that a kill in between never leaves half a folder as done."""
    (folder / IN_PROGRESS).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)


def _last_sign_of_life(folder: Path) -> float:
    """When the stage last wrote something: a killed process cannot say how long it ran."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _make(instance: Instance, recipe: Recipe, out: Path, keys: dict[str, str], progress: InProgress) -> Manifest:
    """Run the stage and write its manifest, last of all."""
    folder = out / instance.name
    manifest.forget_peak_memory()
    if instance.stage.together:
        world.agree(instance.name)
    headline = instance.stage.run(instance.config, _folders(instance, recipe, out), folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    made = Manifest(
        stage=instance.stage.name,
        instance=instance.name,
        version=instance.stage.version,
        key=keys[instance.name],
        config=instance.config.model_dump(mode="json"),
        seed=instance.config.seed,
        inputs={name: keys[name] for name in graph.inputs(recipe)[instance.name]},
        user_files={str(path): graph.path_digest(path) for path in user_files(instance.config).values()},
        versions=manifest.versions(),
        hardware=manifest.hardware(),
        started=progress.started,
        ended=_now(),
        seconds=round(progress.seconds_before + time.time() - progress.attempt_began, 1),
        attempts=progress.attempt,
        peak_memory_mib=manifest.peak_memory_mib(),
        headline=headline,
        files=manifest.file_hashes(folder),
    )
    manifest.write(folder, made)
    (folder / IN_PROGRESS).unlink()
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
