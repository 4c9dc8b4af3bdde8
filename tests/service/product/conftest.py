"""The chat as a product against a real server, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chatwright.service.database import Database
from tests.service.product.browser import Service, serving_product

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
    Path(found).parent for found in [shutil.which("initdb")] if found
]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own on loopback, from the system's package; gives an address without a database."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user: dict[str, Any] = {"user": "postgres", "extra_groups": []} if os.getuid() == 0 else {}  # it refuses root
    folder = Path(tempfile.mkdtemp(prefix="chatwright-postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = ["-D", folder, "-U", "chat", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    subprocess.run([POSTGRES[-1] / "initdb", *made], check=True, capture_output=True, cwd="/", **user)
    # Nothing here outlives the tests, so the disk need not be waited for (-F).
    options = ["-D", folder, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F", "-c", "max_connections=300"]
    server = subprocess.Popen([POSTGRES[-1] / "postgres", *options], stderr=subprocess.DEVNULL, cwd="/", **user)
    address = f"postgresql://chat@127.0.0.1:{port}"
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"{address}/postgres").close()
                break
            assert time.monotonic() < end, "PostgreSQL does not start"
            time.sleep(0.05)
        yield address
    finally:
        server.send_signal(signal.SIGINT)  # it ends without waiting for its clients
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database with all tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> str:
    """An empty PostgreSQL database with all tables, to be copied: its name."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    database = Database(f"{postgres}/migrated")
    database.upgrade()
    database.close()
    return "migrated"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with empty tables: each test that asks runs on both kinds."""
    return new_database(request, request.param, tmp_path)


def new_database(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """A copy of the empty database of a kind: its address."""
    if kind == "sqlite":
        path = folder / f"{secrets.token_hex(4)}.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    address, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{address}/{name}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database itself."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def product(database_url: str) -> Iterator[Callable[..., Service]]:
    """Serve models as a product until the test ends: `product(model, ...)`."""
    with contextlib.ExitStack() as stack:
        yield lambda *models, **options: stack.enter_context(serving_product(models, database_url, **options))


@pytest.fixture
def service(product: Callable[..., Service], scripted: Callable) -> Service:
    """A service whose model always says the same."""
    return product(scripted("The capital of Japan is Tokyo."))
