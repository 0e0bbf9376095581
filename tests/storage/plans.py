"""Plans of the statements that the program's own functions send: a connection that has each of them explained first.

Rule 1: nothing is copied. A function of ``tradeengine.storage`` is called as the engine calls it, and what it executes
is explained with its parameters, carried out and taken back, and then carried out as if nothing had been.
Rule 2: a statement is known by where it stands in the source: module, function and line.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

import tradeengine.storage

FOLDER: Final = Path(tradeengine.storage.__file__).resolve().parent
EXECUTORS: Final = frozenset(
    {
        "execute",
        "executemany",
        "copy",
        "copy_in",
        "copy_out",
        "orders_where",
        "trades_from",
        "_read_number",
    }
)
"""What is called to send a statement; who calls these is where it stands."""
_HELPERS: Final = frozenset(
    {"bulk.copy_in", "bulk.copy_out", "queries.orders_where", "queries.trades_from", "recovery._read_number"}
)
_EXPLAINED: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a statement stands: ``function`` is ``module.name`` or ``module.Class.name``."""

    function: str
    first_line: int
    last_line: int


@dataclass(slots=True)
class Scan:
    """One table, partition or index that was read, all loops together. ``rows``: with those that were thrown away."""

    kind: str
    table: str
    index: str
    rows: float


@dataclass(slots=True)
class Plan:
    """What a statement did."""

    function: str
    line: int
    text: str
    scans: list[Scan] = field(default_factory=list)
    sorted_rows: float = 0
    """Of the largest set that was sorted."""

    def partitions_of(self, table: str) -> set[str]:
        """Partitions of a table that were read."""
        return {scan.table for scan in self.scans if scan.table.startswith(f"{table}_2")}


def sites() -> list[Site]:
    """Every place in ``tradeengine.storage`` that sends a statement."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += list(_sites_below(tree, path.stem))
    return [site for site in found if site.function not in _HELPERS]


def _sites_below(node: ast.AST, name: str) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
        if isinstance(child, ast.Call) and _called(child) in EXECUTORS and child.args:
            yield Site(name, child.lineno, child.end_lineno or child.lineno)
        yield from _sites_below(child, inner)


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


class ExplainingConnection(psycopg.Connection[Any]):
    """A connection that notes the plan of whatever it executes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plans: list[Plan] = []
        self.keeps_plans = False
        """Whether statements are planned once and for all here, as settlement's are: such plans are looked at, too."""
        self.cursor_factory = ExplainingCursor

    def note(self, query: Any, parameters: Any) -> None:
        """Explain a statement and take back what that did."""
        text = query if isinstance(query, str) else query.as_string(self)
        function, line = _where()
        plan = Plan(function, line, text)
        self.plans.append(plan)
        if not text.lstrip().upper().startswith(_EXPLAINED) or "advisory" in text or "set_config" in text:
            return
        explained = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ") + sql.SQL(text)
        with self.transaction(force_rollback=True):
            row = psycopg.Cursor(self).execute(explained, parameters).fetchone()
        assert row is not None
        _read(row[0][0]["Plan"], plan)
        if self.keeps_plans:
            self.plans.append(Plan(function, line, text))
            _read(self._generic_plan(text, parameters), self.plans[-1])

    def _generic_plan(self, text: str, parameters: Any) -> dict[str, Any]:
        """Plan a statement as one that was prepared long ago, without its values; nothing is carried out."""
        made = PostgresQuery(Transformer(self))
        made.convert(text, parameters)
        cursor = psycopg.Cursor(self)
        rows = [cursor.execute("SELECT format_type(%s, NULL)", (oid,)).fetchone() for oid in made.types]
        types = ", ".join(str(row[0]).replace("-", "unknown") for row in rows if row is not None)
        nulls = ", ".join(["NULL"] * len(made.types))
        declared, values = (f"({types})", f"({nulls})") if types else ("", "")
        with self.transaction(force_rollback=True):
            _plain(self, b"PREPARE looked_at" + declared.encode() + b" AS " + made.query)
            found = cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at{values}").fetchone()
            _plain(self, b"DEALLOCATE looked_at")
        assert found is not None
        return dict(found[0][0]["Plan"])


class ExplainingCursor(psycopg.Cursor[Any]):
    """Its cursors."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> ExplainingCursor:
        """Note the plan, then execute."""
        _noting(self).note(query, params)
        return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """Note the plan for the first parameters, then execute."""
        parameters = list(params_seq)
        if parameters:
            _noting(self).note(query, parameters[0])
        super().executemany(query, parameters, **options)

    def copy(self, statement: Any, *args: Any, **options: Any) -> Any:
        """Note the plan of the question, if it is one, then copy."""
        text = statement if isinstance(statement, str) else statement.as_string(self)
        question = text.removeprefix("COPY (").rpartition(") TO ")[0] if text.startswith("COPY (") else text
        _noting(self).note(question, None)
        return super().copy(statement, *args, **options)


def _noting(cursor: psycopg.Cursor[Any]) -> ExplainingConnection:
    connection = cursor.connection
    assert isinstance(connection, ExplainingConnection)
    return connection


def _plain(connection: psycopg.Connection[Any], statement: bytes) -> None:
    """Execute without psycopg's placeholders: the statement has PostgreSQL's own."""
    result = connection.pgconn.exec_(statement)
    assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message.decode()


def _where() -> tuple[str, int]:
    """Name the innermost function of ``tradeengine.storage`` that is no mere executor, and the line that it is at."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(inspect.getframeinfo(frame, 0).filename)
        name = f"{path.stem}.{frame.f_code.co_qualname}"
        if path.parent.resolve() == FOLDER and name not in _HELPERS:
            return name, frame.f_lineno
        frame = frame.f_back
    return "", 0  # a test's own


def _read(node: dict[str, Any], plan: Plan) -> None:
    """Add a node of a plan and those below it."""
    loops = node.get("Actual Loops", 1)
    if loops:
        rows = node.get("Actual Rows", node["Plan Rows"]) + sum(
            node.get(name, 0) for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        )
        if "Index Name" in node or ("Relation Name" in node and "Scan" in node["Node Type"]):
            names = (node["Node Type"], node.get("Relation Name", ""), node.get("Index Name", ""))
            plan.scans.append(Scan(*names, rows * loops))
        if node["Node Type"] in {"Sort", "Incremental Sort"}:
            plan.sorted_rows = max(plan.sorted_rows, rows)
        for child in node.get("Plans", ()):
            _read(child, plan)
