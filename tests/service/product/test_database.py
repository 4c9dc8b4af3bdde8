"""The database: its address, its migrations, its writers, and copies from one kind to the other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from chatwright.errors import UserError
from chatwright.service.copying import copy
from chatwright.service.database import Database, read_url
from chatwright.service.operator import copy_database, create_admin
from chatwright.service.tables import ConversationRow, EventRow, MessageRow, SettingRow, Table, User
from tests.conftest import chatwright, command, quiet
from tests.service.product.browser import Browser, Service, serving_product
from tests.service.product.conftest import new_database


def test_the_migrations_make_what_the_models_say(database: Database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    database.upgrade()


def test_a_database_of_a_later_version_is_refused(database: Database):
    with database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="another version of chatwright"):
        database.upgrade()


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///chat.db", "sqlite+pysqlite"),
        ("postgres://me:secret@host/chat", "postgresql+psycopg"),
        ("postgresql://me@host:5432/chat?sslmode=require", "postgresql+psycopg"),
    ],
)
def test_addresses(url: str, driver: str):
    assert read_url(url).drivername == driver
    assert "secret" not in str(Database(url))


@pytest.mark.parametrize("url", ["chat.db", "mysql://me:secret@host/chat", "sqlite:", "", "nonsense"])
def test_what_is_no_address_is_said_in_a_sentence_without_its_password(url: str):
    with pytest.raises(UserError, match="is not the address of a database") as refused:
        read_url(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_cannot_be_reached_is_said_in_a_sentence(tmp_path: Path):
    for url in (f"sqlite:///{tmp_path}/no/such/folder/chat.db", "postgresql://me:secret@127.0.0.1:1/chat"):
        with pytest.raises(UserError, match="cannot be used") as refused:
            Database(url).upgrade()
        assert "secret" not in str(refused.value)


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, and no database at all. " * 50)
    with pytest.raises(UserError, match="cannot be used"):
        Database(f"sqlite:///{path}").upgrade()
    assert path.read_text().startswith("These are my notes")


def test_a_write_that_fails_leaves_nothing(database: Database):
    def write() -> None:
        with database.write() as session:
            session.add(SettingRow(key="a", value={}))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    with database.read() as session:
        assert session.scalars(sa.select(SettingRow)).all() == []


def test_statements_for_the_driver_give_and_take_what_the_models_say(database: Database):
    user = User(id="u", name="Ada", name_key="ada", role="user", consent=True, settings={"a": [1, None]})
    user.created_at = 1.25
    with database.write() as session:
        session.add(user)
        session.flush()
        session.add(ConversationRow(id="c", user_id="u", settings={}))
        session.flush()
        session.add(MessageRow(id="m", conversation_id="c", position=1, role="assistant", moderation={"flagged": True}))
    find = database.prepare(
        sa.select(User.name, User.consent, User.disabled, User.settings, User.created_at, User.last_seen_at).where(
            User.id == sa.bindparam("user")
        )
    )
    change = database.prepare(
        sa.update(MessageRow).where(MessageRow.id == sa.bindparam("message")), ["content", "moderation"]
    )
    add = database.prepare(sa.insert(EventRow), ["message_id", "first", "pieces"])
    with database.cursor("read") as cursor:
        assert find.rows(cursor, {"user": "u"}) == [["Ada", True, False, {"a": [1, None]}, 1.25, None]]
        assert find.rows(cursor, {"user": "nobody"}) == []
    with database.cursor("write") as cursor:
        change(cursor, {"message": "m", "content": "你好 %s ?", "moderation": None})
        add(cursor, {"message_id": "m", "first": 1, "pieces": ["a", "ü"]})
    with database.read() as session:
        row = session.get_one(MessageRow, "m")
        assert (row.content, row.moderation, row.role) == ("你好 %s ?", None, "assistant")
        assert session.scalar(sa.select(MessageRow.moderation.is_(sa.null()))) == 1  # not JSON's null
        assert session.get_one(EventRow, ("m", 1)).pieces == ["a", "ü"]


def test_a_block_for_the_driver_that_fails_leaves_nothing_and_the_next_goes_on(database: Database):
    add = database.prepare(sa.insert(SettingRow), ["key", "value"])

    def fail() -> None:
        with database.cursor("write") as cursor:
            add(cursor, {"key": "a", "value": {}})
            raise ZeroDivisionError

    for _ in range(60):  # more than there are connections
        with pytest.raises(ZeroDivisionError):
            fail()
    with database.cursor("write") as cursor:
        add(cursor, {"key": "b", "value": {"x": 1}})
    with database.read() as session:
        assert [(row.key, row.value) for row in session.scalars(sa.select(SettingRow))] == [("b", {"x": 1})]


def test_a_database_that_is_gone_is_noticed(database: Database):
    database.check()
    gone = Database("postgresql://me@127.0.0.1:1/chat")
    with pytest.raises(sa.exc.OperationalError):
        gone.check()


def test_many_writers_take_turns_and_readers_do_not_wait(database: Database):
    with database.write() as session:
        session.add(SettingRow(key="count", value={"n": 0}))
    errors: list[Exception] = []

    def count() -> None:
        try:
            for _ in range(20):
                with database.write() as session:
                    row = session.scalar(sa.select(SettingRow).where(SettingRow.key == "count").with_for_update())
                    row.value = {"n": row.value["n"] + 1}
                with database.read() as session:
                    session.get(SettingRow, "count")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(6)]
    with database.write() as writing:
        writing.add(SettingRow(key="other", value={}))
        with database.read() as reading:  # while somebody writes
            assert reading.get_one(SettingRow, "count").value == {"n": 0}
            assert reading.get(SettingRow, "other") is None
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.read() as session:
        assert session.get_one(SettingRow, "count").value == {"n": 120}


def test_another_process_may_write_too(tmp_path: Path):
    """`chatwright admin create` while the service runs."""
    url = f"sqlite:///{tmp_path}/chat.db"
    database = Database(url)
    database.upgrade()
    result = subprocess.run(
        [*command("admin", "create", "root", "--database", url, "--password-stdin")],
        input="correct horse battery\n",
        capture_output=True,
        text=True,
        env=quiet(),
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    with database.read() as session:
        assert [(user.name, user.role) for user in session.scalars(sa.select(User))] == [("root", "admin")]
    with pytest.raises(UserError, match="name ROOT is taken"):
        create_admin(url, "ROOT", "correct horse battery")
    with pytest.raises(UserError, match="too easy"):
        create_admin(url, "other", "password1")
    database.close()


# ---- copies ----


def dump(url: str) -> dict[str, list]:
    """All rows of all tables."""
    database = Database(url)
    with database.read() as session:
        rows = {
            table.name: sorted(
                json.dumps(dict(row._mapping), sort_keys=True) for row in session.execute(sa.select(table))
            )
            for table in Table.metadata.sorted_tables
        }
    database.close()
    return rows


def fill(service: Service) -> None:
    """Some of everything, in English and Chinese."""
    service.set(comparisons=True, user_keys=True)
    anna = service.browser("安娜丽")
    id = anna.conversation(title="首都", consent=False, settings={"temperature": 0.1})
    turn = anna.send(id, "日本的首都是哪里？\u2028🙂", compare=True, key="k")
    answers = [anna.end_of(answer) for answer in turn["answers"]]
    anna.ok("PUT", f"/conversations/{id}/comparisons/{turn['comparison']['id']}", {"choice": "b"})
    anna.ask(id, "And of France?", answers[1]["id"])
    path = f"/conversations/{id}/messages/{answers[1]['id']}/feedback"
    anna.ok("PUT", path, {"vote": "down", "tags": ["wrong", "other"], "text": "不对"})
    anna.ok("POST", f"/conversations/{id}/share", {})
    anna.ok("POST", "/keys", {"name": "k", "scopes": ["chat"]})
    with service.parts.database.write() as session:  # as an answer that takes longer than these leaves them
        session.add(EventRow(message_id=answers[0]["id"], first=1, pieces=["The capital", " of Japan 🙂"]))


def test_a_copy_to_the_other_kind_and_back_is_the_same(
    service: Service, database_url: str, request: pytest.FixtureRequest, tmp_path: Path
):
    fill(service)
    kinds = ("postgresql", "sqlite") if database_url.startswith("sqlite") else ("sqlite", "postgresql")
    there, back = (new_database(request, kind, tmp_path) for kind in kinds)
    counts = copy_database(database_url, there)
    copy_database(there, back)
    before = dump(database_url)
    assert all(before.values())  # every table has rows
    assert dump(there) == dump(back) == before
    assert counts == {name: len(rows) for name, rows in before.items()}


def test_the_service_goes_on_with_a_copy(service: Service, scripted: Callable, tmp_path: Path):
    fill(service)
    url = f"sqlite:///{tmp_path}/copy.db"
    source, target = Database(str(service.parts.database.url.render_as_string(hide_password=False))), Database(url)
    copy(source, target)
    source.close()
    target.close()
    with serving_product([scripted("Hi.")], url) as again:
        anna = Browser(again.address).log_in("安娜丽")
        [item] = anna.ok("GET", "/conversations")["items"]
        last = anna.read(item["id"])["current_id"]
        assert anna.ask(item["id"], "Still there?", last)["content"] == "Hi."
        anna.http.close()


def test_a_copy_into_a_database_in_use_is_refused_and_changes_nothing(
    service: Service, database_url: str, tmp_path: Path
):
    service.browser("anna")
    other = f"sqlite:///{tmp_path}/other.db"
    create_admin(other, "root", "correct horse battery")
    before = dump(other)
    with pytest.raises(UserError, match=r"is not empty: its table \w+ has rows"):
        copy_database(database_url, other)
    assert dump(other) == before


def test_copying_what_is_not_there_makes_no_file(tmp_path: Path):
    result = chatwright("db", "copy", f"sqlite:///{tmp_path}/none.db", f"sqlite:///{tmp_path}/copy.db")
    assert result.status == 2
    assert "none.db does not exist" in result.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["admin", "create"], ["db", "upgrade"], ["db", "copy"], ["db", "export"], ["serve"]])
def test_the_help_of_each_command_has_an_example(words: list[str]):
    assert f"Example: chatwright {' '.join(words)} " in chatwright(*words, "--help").output


def test_the_command_line_needs_no_service_to_show_its_help():
    code = "import sys, chatwright.cli; print({'sqlalchemy', 'fastapi', 'alembic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
