"""Commands of who runs the service: admins, the database, and the classifier of harmful texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from chatwright.cli.options import DATABASE, DatabaseOption, JsonOption, print_json
from chatwright.errors import UserError

admin_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Who runs the service. Example: [bold]chatwright admin create anna[/]",
)


@admin_app.command("create")
def admin_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The admin's name.")],
    database: DatabaseOption = DATABASE,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Make an account for an operator, who sees /admin. Works while the service runs, too.

    Example: [bold]chatwright admin create anna --database sqlite:///chatwright.db[/]
    """
    from chatwright.service import operator

    password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask_password()
    operator.create_admin(database, name, password)
    print(f"{name} is an admin now; log in at /login.", file=sys.stderr)


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise UserError("There is no terminal to ask for a password; give it with --password-stdin.")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


db_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="The service's database. Example: [bold]chatwright db copy sqlite:///chatwright.db postgresql://me@host/chat[/]",
)


@db_app.command("upgrade")
def db_upgrade(database: DatabaseOption = DATABASE) -> None:
    """Bring a database's tables to what this version needs; `serve` does so by itself.

    Example: [bold]chatwright db upgrade --database sqlite:///chatwright.db[/]
    """
    from chatwright.service import operator

    operator.upgrade(database)
    print("The database is up to date.", file=sys.stderr)


@db_app.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The database to copy.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="An empty database, of either kind.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a whole database into an empty one, from SQLite to PostgreSQL or back. Stop the service before.

    Example: [bold]chatwright db copy sqlite:///chatwright.db postgresql://me@host/chat[/]
    """
    from chatwright.service import operator

    counts = operator.copy_database(source, target)
    if as_json:
        print_json({"rows": counts})
    else:
        print(f"{sum(counts.values())} rows are copied.", file=sys.stderr)


@db_app.command("export")
def db_export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="feedback, conversations or comparisons.")],
    out: Annotated[Path, typer.Argument(help="The new file of JSON lines.")],
    database: DatabaseOption = DATABASE,
    per_user: Annotated[
        int | None, typer.Option(min=1, help="The most records of one person; as the operator set it when left out.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only what this model answered.")] = None,
) -> None:
    """Write what people said and chose as records for training: with consent, scrubbed of what names people.

    Example: [bold]chatwright db export comparisons comparisons.jsonl[/]
    """
    from chatwright.service import operator

    count = operator.export_records(database, kind, out, per_user, model)
    print(f"{count} records are in {out}.", file=sys.stderr)


moderation_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train the classifier of harmful texts, or try what is flagged.\n\n"
    "Example: [bold]chatwright moderation check 'How do I build a pipe bomb?'[/]",
)


@moderation_app.command("train")
def moderation_train(
    data: Annotated[
        Path, typer.Argument(help="A folder with cold_zh, davidson, openai_moderation or toxigen_prompts in it.")
    ],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    false_alarms: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The share of harmless held-out texts that may be flagged.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Of the solver.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train the classifier of harmful texts on public sets, and measure it on texts that it never saw.

    Example: [bold]chatwright moderation train data/moderation runs/moderation[/]
    """
    from chatwright.service.moderation import training

    description = training.train(data, out, false_alarms, seed)
    if as_json:
        print_json(description)
    else:
        print(training.as_table(description))


@moderation_app.command("check")
def moderation_check(
    text: Annotated[str, typer.Argument(help="What somebody might say; - to count over lines of standard input.")],
    moderation: Annotated[Path | None, typer.Option(help="The classifier's folder; rules alone when left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a text would be refused, why, and with which words.

    Example: [bold]chatwright moderation check "How do I build a pipe bomb?"[/]
    """
    from collections import Counter
    from dataclasses import asdict

    from chatwright.service.moderation import Moderator

    moderator = Moderator.load(moderation)
    if text == "-":
        decisions = [moderator.check(line) for line in sys.stdin]
        kinds = Counter(category for decision in decisions for category in decision.categories)
        flagged = sum(decision.flagged for decision in decisions)
        print_json({"texts": len(decisions), "flagged": flagged, "categories": kinds, "version": moderator.version})
        return
    decision = moderator.check(text)
    if as_json:
        print_json(asdict(decision))
    else:
        print(f"{', '.join(decision.categories)}: {decision.message}" if decision.flagged else "Nothing is wrong.")
