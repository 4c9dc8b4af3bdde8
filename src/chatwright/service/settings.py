"""What the operator sets while the service runs: kept in the database, read from memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from chatwright.service.database import Database
from chatwright.service.limits import RATES
from chatwright.service.tables import SettingRow

ROW = "operator"


class AdminSettings(BaseModel):
    """The operator's choices, as they come.

    comparison_share: of the turns that get two answers unasked. consent_default: of new accounts; guests never consent
    unasked. model_titles: whether a model names conversations; else their first words do. moderate_api: whether what is
    asked with an API key, and its answer, is moderated as on the page. export_per_user: the most records of one person
    in an export. retention_guest_days: how long a guest who is gone is kept. rates: a bucket's limit such as
    "20/minute", "" for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    signup: bool = True
    guests: bool = False
    comparisons: bool = False
    comparison_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    consent_default: bool = False
    model_titles: bool = True
    moderate_api: bool = True
    user_keys: bool = False
    export_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    retention_guest_days: Annotated[int, Field(ge=1, le=3650)] = 30
    rates: dict[str, str] = Field(default_factory=lambda: dict(RATES))

    @field_validator("rates")
    @classmethod
    def _buckets_exist(cls, rates: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(rates) - set(RATES))
        if unknown:
            raise ValueError(f"there is no limit {unknown[0]!r}; there are {', '.join(RATES)}")
        return {**RATES, **rates}


class SettingsStore:
    """Reads the operator's settings from memory and writes them through."""

    def __init__(self, database: Database) -> None:
        """Those in the database; what is not there is as it comes."""
        self._database = database
        self._lock = threading.Lock()
        with database.read() as session:
            row = session.get(SettingRow, ROW)
        known = {key: value for key, value in (row.value if row else {}).items() if key in AdminSettings.model_fields}
        self.current = AdminSettings(**known)

    def change(self, changes: dict[str, Any], apply: Callable[[AdminSettings], None]) -> AdminSettings:
        """Take changes of some settings, and `apply` them. Nothing is changed when one makes no sense, and pydantic's
        ValidationError or what `apply` raises says why.
        """
        with self._lock:
            merged = self.current.model_dump() | changes
            if isinstance(changes.get("rates"), dict):
                merged["rates"] = self.current.rates | changes["rates"]
            settings = AdminSettings.model_validate(merged)
            apply(settings)
            with self._database.write() as session:
                session.merge(SettingRow(key=ROW, value=settings.model_dump()))
            self.current = settings
            return settings
