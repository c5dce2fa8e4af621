"""Fixtures of the end-to-end tests: the databases of Dagster's history."""

import pytest


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def history_url(request: pytest.FixtureRequest) -> str | None:
    """Runs a test with Dagster's history in each database: the URL of PostgreSQL; None for SQLite."""
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else None
