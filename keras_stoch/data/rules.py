"""What counts as malignant: the rules by name and by source, and the target that a row of a label file comes to."""

import difflib

from keras_stoch.data.diagnoses import classify, levels_of
from keras_stoch.data.layouts import CLASSES, SOURCES, Layout

# Which diagnoses count as malignant. "paper": 2016 and 2020 the label, 2017 melanoma, 2018 MEL, BCC and AKIEC, 2019
# MEL, BCC, AK and SCC; by the same words, of what came later, 2024 the label, MILK10k also SCCKA and MAL_OTH, the
# archive all that it calls malignant, and actinic keratosis. The binary files of 2016 and 2020 call nothing malignant
# but melanoma.
RULES = {
    "paper": frozenset({"MEL", "BCC", "AKIEC", "AK", "SCC", "SCCKA", "MAL_OTH"}),
    "melanoma": frozenset({"MEL"}),
}
MISSING = ("", "na", "n/a", "nan", "none", "null", "unknown")


def make_rules(malignant) -> dict:
    """The rule of every source that has one of its own, and under None that of all others."""
    if not isinstance(malignant, dict):
        return {None: _rule(malignant)}
    given = {str(source): rule for source, rule in malignant.items()}
    unknown = sorted(set(given) - set(SOURCES))
    if unknown:
        raise ValueError(
            f"malignant can have rules for {', '.join(SOURCES)}. "
            f"Received: {', '.join(unknown)}{_hint(unknown, SOURCES)}"
        )
    return {None: RULES["paper"]} | {source: _rule(rule) for source, rule in given.items()}


def rule_for(layout: Layout, rules: dict) -> frozenset:
    return rules.get(layout.source or str(layout.year), rules[None])


def _rule(malignant) -> frozenset:
    if isinstance(malignant, str):
        if malignant in RULES:
            return RULES[malignant]
        malignant = [malignant]
    rule = frozenset(malignant)
    unknown = sorted(rule.difference(CLASSES))
    if unknown or not rule:
        raise ValueError(
            f"malignant must be one of {', '.join(map(repr, RULES))}, or classes among {', '.join(CLASSES)}. "
            f"Received: {', '.join(map(repr, unknown)) or 'nothing'}{_hint(unknown, [*RULES, *CLASSES])}"
        )
    return rule


def _hint(unknown, known) -> str:
    """The nearest of the known names, in words; empty if none is near."""
    names = {name.casefold(): name for name in known}
    near = [names[match] for name in unknown for match in difflib.get_close_matches(str(name).casefold(), names, 1)]
    return f". Did you mean {', '.join(map(repr, near))}?" if near else ""


def _bit(cell: str, column: str, where: str) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = None
    if value not in (0.0, 1.0):
        raise ValueError(f"{where}: {column} must be 0 or 1. Received: {cell!r}")
    return int(value)


def _class(row: dict, where: str) -> str | None:
    """The class that the levels of a diagnosis come to, None if they are not there or decide nothing."""
    levels = levels_of(row)
    if levels is None:
        return None
    words = ["" if (cell := row.get(column, "")).casefold() in MISSING else cell for column in levels]
    try:
        return classify(*words)
    except ValueError as error:
        raise ValueError(f"{where}: {levels[0]} {error}") from None


def _target_2024(row: dict, rule, where: str) -> tuple[int | None, str | None]:
    """(target, diagnosis): the label as it is, or by another rule what the diagnosis says, if the table has it."""
    column = "target" if "target" in row else "malignant"
    label, known = _bit(row[column], column, where), _class(row, where)
    first = row.get("iddx_1", "").strip().casefold()
    if first == ("benign", "malignant")[not label]:
        raise ValueError(f"{where}: {column} is {label}, but iddx_1 says {row['iddx_1']!r}")
    if rule == RULES["paper"]:
        return label, known
    if known is not None:
        return int(known in rule), known
    # A malignant one of an unknown kind is decided where all kinds count, and a benign one where none of them does.
    kinds = {"MEL", "BCC", "SCC", "MAL_OTH"} if label else {"NV", "BKL", "DF", "VASC", "BEN_OTH", "INF"}
    counted = kinds & rule
    return (None if counted and counted != kinds else int(bool(counted))), None


def target_of(layout: Layout, row: dict, rule, where: str) -> tuple[int | None, str | None]:
    """(target, diagnosis) of one row; the target is None where the row does not say."""
    if layout.year == 2016:
        words = {"benign": 0, "malignant": 1}
        malignant = words[row["label"]] if row["label"] in words else _bit(row["label"], "the label", where)
        diagnosis = "MEL" if malignant else None
    elif layout.year == 2017:
        melanoma, keratosis = (_bit(row[column], column, where) for column in layout.required[1:])
        if melanoma and keratosis:
            raise ValueError(f"{where}: both melanoma and seborrheic_keratosis are 1")
        diagnosis = "MEL" if melanoma else "BKL" if keratosis else "NV"
    elif layout.year == 2020:
        malignant = _bit(row["target"], "target", where)
        if row["benign_malignant"] != ("benign", "malignant")[malignant]:
            raise ValueError(f"{where}: target is {malignant}, but benign_malignant says {row['benign_malignant']!r}")
        words = {"nevus": "NV", "seborrheic keratosis": "BKL", "unknown": None, "": None}
        diagnosis = "MEL" if malignant else words.get(row["diagnosis"], row["diagnosis"])
    elif layout.year == 2024 and layout.kind == "labels":
        return _target_2024(row, rule, where)
    elif levels_of(row):
        diagnosis = _class(row, where)
        if diagnosis is None:
            return None, None
    elif "dx" in row:
        diagnosis = row["dx"].upper()
        if diagnosis not in CLASSES:
            known = ", ".join(name.lower() for name in CLASSES)
            raise ValueError(f"{where}: dx must be one of {known}. Received: {row['dx']!r}")
    elif layout.year is None:
        return _bit(row["target"], "target", where), row.get("diagnosis") or None
    else:
        classes = [name for name in CLASSES if name in row]
        on = [name for name in classes if _bit(row[name], name, where)]
        if len(on) != 1:
            raise ValueError(f"{where}: one of {', '.join(classes)} must be 1. Received: {' and '.join(on) or 'none'}")
        diagnosis = on[0]
    return int(diagnosis in rule), diagnosis
