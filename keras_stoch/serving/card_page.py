"""card.md: a card for readers, with the model metadata of Hugging Face in front."""

import json

from keras_stoch.evaluation.metrics import TITLES

METRICS = {"auc": "roc_auc", "average_precision": "average_precision", "brier": "brier_score", "ece": "ece"}
INTERVAL = "value (95% interval)"


def markdown(card: dict) -> str:
    """The text of card.md.

    Args:
        card: of `make_card`.
    """
    parts = [
        front_matter(card),
        f"# {card['name']}",
        card["description"] + ".",
        _list(
            ("task", card["task"]),
            ("version", card["version"]),
            ("authors", card["authors"]),
            ("copyright", card["copyright"]),
            ("licence", card["license"]),
            ("format", card["exported"]["format"]),
        ),
        f"## Intended use\n\n{card['intended_use']}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in card["limits"]),
        _data(card),
        _training(card),
        _calibration(card["calibration"]),
        *_performance(card["performance"]),
        _use(card),
        "## References\n\n" + "\n".join(f"- {reference}" for reference in card["references"]),
    ]
    if card["changelog"]:
        parts.append(_list(*card["changelog"].items(), title="## Changelog"))
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(card: dict) -> str:
    """Hugging Face's metadata between two lines of dashes; values are JSON, which is YAML."""
    found = {
        "license": card["license"],
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["medical", "dermoscopy", "stochastic-convolution"],
    }
    results = []
    for one in card["performance"]:
        metrics = [
            {"type": METRICS[name], "name": TITLES[name], "value": one["measures"][name]["value"]}
            for name in METRICS
            if one["measures"].get(name, {}).get("value") is not None
        ]
        task = {"type": "image-classification", "name": "malignant or benign"}
        dataset = {"type": one["data"], "name": one["data"], "split": one["split"]}
        results.append({"task": task, "dataset": dataset, "metrics": metrics})
    if results:
        found["metrics"] = sorted({metric["type"] for result in results for metric in result["metrics"]})
        found["model-index"] = [{"name": card["name"], "results": results}]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in found.items()]
    return "\n".join(["---", *lines, "---"])


def _data(card) -> str:
    data, lines = card["data"], [f"{card['data_source']}."]
    if data is not None:
        facts = [(name, data[name]) for name in ("images", "malignant", "batches", "fold") if name in data]
        for name in ("split_by", "counted_as_malignant", "preparation"):
            if name in data:
                facts.append((name.replace("_", " "), _told(data[name])))
        for name in ("manifest", "pixels"):
            if name in data:
                facts.append((f"digest of the {name}", data[name]))
        lines.append(_list(*facts))
        if "splits" in data:
            rows = [(name, row["images"], row["malignant"], row["groups"]) for name, row in data["splits"].items()]
            lines.append(_table(("split", "images", "malignant", "groups (lesions, patients)"), rows))
        for name in ("years", "diagnosis", "sex"):
            if name in data:
                lines.append(_table((name, "images"), list(data[name].items())))
        if "note" in data:
            lines.append(f"({data['note']})")
    return "## Data it was trained on\n\n" + "\n\n".join(lines)


def _training(card) -> str:
    if card["training"] is None:
        return "## Training\n\nNot known: it was not exported from the folder of a run."
    model = card["model"]
    facts = [("model", _told(model.get("arguments", model)))]
    if "weights" in model:
        facts.append(("started from", _told(model["weights"])))
    facts += [("recipe", _told(card["recipe"]))]
    training = card["training"]
    facts += [(name, training[name]) for name in ("seed", "strategy", "replicas")]
    facts += [(name, _told(training[name])) for name in ("result", "environment") if training[name]]
    return _list(*facts, title="## Training")


def _calibration(found) -> str:
    if found is None:
        return "## Temperature and threshold\n\nNone is stored with the model."
    facts = [
        ("temperature", f"{found['temperature']:.4f}"),
        (
            "fitted on",
            f"{found['data']}, split {found['split']}: {found['images']} images, {found['malignant']} malignant",
        ),
        ("draws averaged over there", found["passes"]),
        ("log loss there", f"{found['log_loss_before']:.4f} before, {found['log_loss_after']:.4f} after"),
    ]
    if found["rule"] is None:
        facts.append(("threshold", "none was asked for"))
    else:
        facts += [
            (
                "threshold",
                f"{found['threshold']:.4g} of the calibrated probability, logit {found['threshold_logit']:.4g}",
            ),
            ("chosen for", f"{found['rule']} of at least {found['at']:.0%} there"),
            ("reached there", f"sensitivity {found['sensitivity']:.1%}, specificity {found['specificity']:.1%}"),
        ]
    text = _list(*facts, title="## Temperature and threshold")
    if found["at_bound"]:
        text += "\n\nThe search ended at its bound: the classes are separated, or no temperature mends the logits."
    return text


def _performance(found) -> list[str]:
    if not found:
        return ["## Measured performance\n\nNo evaluation was kept with the model."]
    parts = ["## Measured performance\n\nIntervals are 95%, by bootstrap; lesions and patients are drawn whole."]
    for one in found:
        kind = "other images than those it was trained on" if one["external"] else "the folder it was trained on"
        title = f"### {one['data']}, split {one['split']}"
        text = (
            f"{kind}; {one['images']} images, {one['malignant']} malignant; {_draws(one['passes'])}, "
            f"{one['bootstraps']} resamples, {one['evaluated']}"
        )
        rows = [(TITLES[name], _interval(row)) for name, row in one["measures"].items()]
        rows += [(f"sensitivity at specificity {float(at):.0%}", f"{v:.1%}") for at, v in one["sensitivity"].items()]
        parts += [title, text, _table(("measure", INTERVAL), rows)]
        if one["change"]:
            rows = []
            for name, row in one["change"].items():
                both = f"{_number(row['internal'])} → {_number(row['external'])}"
                told = f"{_number(row['change'], '+')} ({_number(row['low'])} to {_number(row['high'])})"
                rows.append((TITLES[name], both, told))
            parts.append(_table(("change from the images of the temperature", "from → to", "change"), rows))
        if one["subgroups"]:
            rows = []
            for row in one["subgroups"]:
                auc = {"value": row["auc"], "low": row["auc_low"], "high": row["auc_high"]}
                told = row["note"] or _interval(auc)
                rows.append((f"{row['attribute']} {row['value']}", row["images"], row["malignant"], told))
            parts.append(_table(("subgroup", "images", "malignant", f"ROC AUC, {INTERVAL}"), rows))
        parts += [f"Note: {note}." for note in one["notes"]]
    return parts


def _draws(passes: int) -> str:
    return "one draw" if passes == 1 else f"{passes} draws averaged"


def _use(card) -> str:
    rows = []
    for side in ("inputs", "outputs"):
        for name, tensor in card["network_data_format"][side].items():
            shape = ["batch", *tensor["spatial_shape"], *([tensor["num_channels"]] if side == "inputs" else [])]
            told = tensor["channel_def"]["0"] if side == "outputs" else ", ".join(tensor["channel_def"].values())
            rows.append((side[:-1], name, tensor["dtype"], " x ".join(map(str, shape)), told))
    needs = ", ".join(f"{name} {version}" for name, version in card["required_packages_version"].items())
    table = _table(("", "name", "type", "shape", "meaning"), rows)
    return f"## Inputs and outputs\n\nExported with {needs}, numpy {card['numpy_version']}.\n\n{table}"


def _list(*facts, title="") -> str:
    lines = "\n".join(f"- {name}: {value}" for name, value in facts)
    return f"{title}\n\n{lines}" if title else lines


def _table(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def _told(value) -> str:
    """Plain values in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value, sign="") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def _interval(row) -> str:
    return "-" if row["value"] is None else f"{_number(row['value'])} ({_number(row['low'])} to {_number(row['high'])})"
