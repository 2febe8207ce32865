"""Points of series as plain rows, as fast as the database gives them: a long run has tens of thousands.

Knows nothing of jobs, nor of what is done with the rows.
"""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import psycopg
from django.db import connection
from django.db.models import QuerySet

from portal.telemetry.models import MetricPoint

Row = tuple[str, int, int, int | None, float, float]
"""(name, attempt, seq, step, at, value)"""

COLUMNS = ("name", "attempt__number", "seq", "step", "at", "value")


def rows(points: QuerySet[MetricPoint]) -> list[Row]:
    """Their rows, in order of (attempt, seq)."""
    asked = points.order_by().values_list(*COLUMNS)
    return sorted(_fetched(asked), key=itemgetter(1, 2))  # they come nearly so; a database would sort them on its disk


def _fetched(asked: "QuerySet[MetricPoint, Row]") -> Iterable[Row]:
    if connection.vendor != "postgresql":
        return asked
    # Django's cursor has every number written out and parsed again, which takes three times as long.
    connection.ensure_connection()
    sql, params = asked.query.sql_with_params()
    session: Any = connection.connection
    with connection.wrap_database_errors, psycopg.Cursor(session) as cursor:
        found: list[Row] = cursor.execute(sql, params, binary=True).fetchall()
    return found
