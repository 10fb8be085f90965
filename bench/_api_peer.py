"""What an HTTP submission costs at least: the same form through FastAPI, without a database, and with a commit each."""

import os
import sqlite3
import uuid
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class Form(BaseModel):
    """A few checked fields."""

    action: str
    input: dict[str, Any] = {}
    priority: str = "normal"
    delay_s: float = 0


def create() -> FastAPI:
    """Return the application; `PEER_DATABASE` names its file."""
    api = FastAPI()
    database = sqlite3.connect(os.environ["PEER_DATABASE"], isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE tasks (id TEXT PRIMARY KEY, body TEXT)")

    @api.post("/bare", status_code=201)
    async def bare(form: Form) -> dict[str, Any]:
        return {"id": uuid.uuid4().hex, **form.model_dump()}

    @api.post("/commit", status_code=201)
    async def commit(form: Form) -> dict[str, Any]:
        task_id = uuid.uuid4().hex
        database.execute("INSERT INTO tasks VALUES (?, ?)", (task_id, form.model_dump_json()))
        return {"id": task_id, **form.model_dump()}

    return api
