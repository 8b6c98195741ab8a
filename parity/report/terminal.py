"""Verdicts as lines of a terminal."""

import math

from parity.errors import NOT_COMPARED, Row


def number(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e4 else f"{value:.1e}"


def table_line(row: Row) -> str:
    """A row as one line of a terminal table."""
    verdict = {NOT_COMPARED: "-   "}.get(row.status, f"{row.status:4}")
    number = "         -" if row.value is None else f"{row.value:10.1e}"
    limit = "" if row.tolerance is None else f" of {row.tolerance:.1e}"
    if row.tolerance == 0.0 and row.value is not None:
        number, limit = f"{row.value:10.0f}", f" {row.measure}"
    elif row.value is None:
        limit = ""
    where = "" if row.passed else f"  first: {row.first_divergence or '-'}"
    if row.status == NOT_COMPARED:
        where = "  not compared"
    return f"{verdict} {row.check:13} {row.dtype:8}{number}{limit}{where}"
