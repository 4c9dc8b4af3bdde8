"""The graph of a recipe: who reads whom, the key of every instance, and what comes before and after it."""

from __future__ import annotations

from pathlib import Path

from chatwright.errors import UserError
from chatwright.flow.recipe import Instance, Place, Recipe, matches, nearest, user_files
from chatwright.storage import digest, file_digest

# These look at a whole run: they read every instance before them, variants too, whatever the recipe leaves out.
GATHERING = ("evaluate", "report")


def inputs(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """For every instance, the instances that it reads. UserError when a recipe leaves out one that is needed."""
    return {name: tuple(dict.fromkeys(played.values())) for name, played in parts(recipe).items()}


def parts(recipe: Recipe) -> dict[str, dict[str, str]]:
    """For every instance, which instance plays the part of each of its inputs."""
    return {instance.name: _parts_of(instance, recipe) for instance in recipe.instances}


def _parts_of(instance: Instance, recipe: Recipe) -> dict[str, str]:
    stage = instance.stage
    if stage.name in GATHERING:
        return {name: name for name in recipe.names[: recipe.names.index(stage.name)]}
    played = dict(instance.reads) if instance.reads is not None else instance.config.reads(stage.inputs)
    for name in played.values():
        if name not in recipe.names:
            raise UserError(f"{recipe.path}: {stage.name} reads {name}, which `stages` leaves out; add {name!r} to it.")
        if recipe.names.index(name) >= recipe.names.index(instance.name):
            raise UserError(f"{recipe.path}: {instance.name} reads {name}, which does not come before it on the road.")
    return played


def keys(recipe: Recipe) -> dict[str, str]:
    """The key of every instance: a hash of its stage's version, its config, the files it names and its inputs' keys.

    A user's file counts with its content and not with its path: moved data is the same data, changed data is not.
    """
    played = parts(recipe)
    found: dict[str, str] = {}
    for instance in recipe.instances:
        config = instance.config.counted()
        contents = {place: path_digest(path) for place, path in user_files(instance.config).items()}
        found[instance.name] = digest(
            {
                "stage": instance.stage.name,
                "version": instance.stage.version,
                "config": _with_contents(config, contents),
                "inputs": {part: found[name] for part, name in played[instance.name].items()},
            }
        )
    return found


def _with_contents(value: object, contents: dict[Place, str], place: Place = ()) -> object:
    """A dumped config with the hash of a file's content where its path was."""
    if isinstance(value, Path):
        return contents[place]
    if isinstance(value, dict):
        return {key: _with_contents(inner, contents, (*place, key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_contents(inner, contents, (*place, i)) for i, inner in enumerate(value)]
    return value


def path_digest(path: Path) -> str:
    """A hash of a file's bytes, or of the names and bytes of all that lies in a folder or that a pattern matches."""
    if path.is_file():
        return file_digest(path)
    root = path
    while not root.is_dir():
        root = root.parent
    found = path.rglob("*") if root == path else map(Path, matches(path))
    return digest({file.relative_to(root).as_posix(): file_digest(file) for file in found if file.is_file()})


def named(recipe: Recipe, *names: str) -> tuple[str, ...]:
    """What a person means by each name: ``ppo`` is the stage with its variants, ``ppo@seed2`` just that one."""
    found = {name: [i.name for i in recipe.instances if name in (i.name, i.stage.name)] for name in names}
    for name in names:
        if not found[name]:
            raise UserError(f"{recipe.path} has no stage {name!r}{nearest(name, recipe.names)}.")
    return tuple(instance for instances in found.values() for instance in instances)


def needed_for(recipe: Recipe, targets: tuple[str, ...]) -> tuple[str, ...]:
    """``targets`` and all that they are made from, in order."""
    reads = inputs(recipe)
    needed = set(targets)
    for name in reversed(recipe.names):
        if name in needed:
            needed.update(reads[name])
    return tuple(name for name in recipe.names if name in needed)


def made_from(recipe: Recipe, sources: tuple[str, ...]) -> tuple[str, ...]:
    """``sources`` and all that is made from them, in order."""
    reads = inputs(recipe)
    made = set(sources)
    for name in recipe.names:
        if made.intersection(reads[name]):
            made.add(name)
    return tuple(name for name in recipe.names if name in made)
