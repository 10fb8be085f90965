"""Brings a database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Engine

from protocols.errors import InvalidSettings


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision`, all in one transaction, which holds the write lock.

    Raises InvalidSettings for a database with a schema that this version does not know.
    """
    try:
        with engine.begin() as connection:
            command.upgrade(_config(connection), revision)
    except CommandError as error:
        raise InvalidSettings(
            "the database was made by a newer version of Warren: run that version, or use another data directory"
        ) from error


def downgrade(engine: Engine, revision: str) -> None:
    """Run the migrations down to `revision`."""
    with engine.begin() as connection:
        command.downgrade(_config(connection), revision)


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
