"""The card of an exported model: what it is, what it learnt from, how good it was seen to be, and what it is not for.

`card.json` has the fields of MONAI's bundle metadata (but the versions of MONAI and PyTorch, which a Keras model has
not), and what they have no place for; `card.md` the same for readers, with Hugging Face's model metadata in front.
"""

import datetime
import io
import json
from pathlib import Path

from keras_stoch.evaluation.calibration import load_calibration, weights_digest
from keras_stoch.evaluation.records import load_records
from keras_stoch.files import versions
from keras_stoch.storage import as_path
from keras_stoch.training.holds import read_json

# Fields that whoever exports can state, and what stands there until then.
STATED = {
    "name": None,
    "version": None,
    "description": None,
    "authors": "not stated",
    "copyright": "not stated",
    "license": "unknown",
    "intended_use": (
        "Research on telling malignant from benign skin lesions in dermoscopic photographs. Not a medical device: it "
        "must not decide on a person's diagnosis or treatment."
    ),
    "limits": [],
    "data_source": None,
    "references": [],
    "changelog": {},
}
PAPER = "C. Reekie, Stochastic Convolutions for High Resolution Medical Image Classification, Columbia University, 2021"
LIMITS = (
    "Answers hold for photographs like those it was evaluated on; other cameras, skin types, sites and diagnoses may "
    "come out worse without any sign of it.",
    "It always answers benign or malignant, for photographs without a lesion too.",
)


def check_stated(card) -> dict:
    """The fields that are stated, from a dict or the path of a JSON file.

    Raises:
        ValueError: for a file that holds no object, or an unknown field or one of another type.
    """
    if card is None:
        return {}
    if isinstance(card, str | Path):
        try:
            found = json.loads(Path(card).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"card must be a file of JSON, and {card} can not be read: {error}") from None
    else:
        found = card
    if not isinstance(found, dict):
        raise ValueError(f"card must hold an object of fields. Received: {found!r}")
    unknown = sorted(set(found) - set(STATED))
    if unknown:
        raise ValueError(f"card can state {', '.join(STATED)}. Received: {', '.join(map(str, unknown))}")
    for name, value in found.items():
        kind = type(STATED[name]) if STATED[name] is not None else str
        if not isinstance(value, kind) or (kind is list and not all(isinstance(item, str) for item in value)):
            told = {str: "a text", list: "a list of texts", dict: "an object"}[kind]
            raise ValueError(f"card: {name} must be {told}. Received: {value!r}")
    return found


def make_card(served, format: str, folder=None, which: str = "best", stated: dict | None = None) -> dict:
    """The card of an export, as plain values.

    Args:
        served: `Served` that was written.
        format: of the export.
        folder: of the run it is from, if any.
        which: weights of the run.
        stated: what `check_stated` gave.
    """
    stated, model = stated or {}, served.model
    config = (read_json(as_path(folder) / "config.json") or {}) if folder is not None else {}
    environment = (read_json(as_path(folder) / "environment.json") or {}) if folder is not None else {}
    trained = config.get("data") or {}
    digest = None if folder is None else weights_digest(as_path(folder) / f"{which}.weights.h5")
    performance, others = _performance(folder, digest, trained, served.calibration)
    learnt = data_told(trained)
    limits = [*LIMITS, *_limits(performance, others, served, config)]
    first = performance[0]["measures"] if performance else {}
    name = config.get("model", {}).get("name") or model.name
    size = f"{served.low_res}x{served.low_res}"
    if served.high_res:
        size += f" and the detail of {served.high_res}x{served.high_res}"
    card = {
        "name": name,
        "version": digest or "not versioned",
        "task": "Binary classification of photographs of skin lesions: the probability that a lesion is malignant",
        "description": f"{name} with {model.count_params():,} parameters, which sees {size} pixels of a photograph",
        "authors": STATED["authors"],
        "copyright": STATED["copyright"],
        "license": STATED["license"],
        "intended_use": STATED["intended_use"],
        "limits": limits,
        "references": [PAPER],
        "changelog": {},
        "data_source": _source(trained),
        "data_type": "photographs, 8 bits, RGB",
        "data": learnt,
        "image_classes": "three channels, red, green and blue, 0 to 255",
        "label_classes": {"0": "benign", "1": "malignant"},
        "pred_classes": _answers(served, format),
        "eval_metrics": {key: value["value"] for key, value in first.items() if value["value"] is not None},
        "performance": performance,
        "calibration": _calibration(served.calibration),
        "model": config.get("model") or {"kind": "own", "name": model.name},
        "recipe": config.get("recipe"),
        "training": _training(folder, config, environment),
        "numpy_version": versions("numpy")["numpy"],
        "required_packages_version": versions("tensorflow", *(("keras",) if format == "keras" else ())),
        "exported": {
            "format": format,
            "with": versions("keras-stoch", "keras", "tensorflow"),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        "network_data_format": _tensors(served, format),
    }
    card |= {key: value for key, value in stated.items() if key not in ("limits", "references")}
    for key in ("limits", "references"):
        card[key] = [*card[key], *stated.get(key, [])]
    return card


def stored_calibration(folder, which: str = "best"):
    """(what a run stores for these weights or None, why it is left out or None).

    Raises:
        ValueError: if what is stored was made for other weights than the best of the run.
    """
    digest = weights_digest(as_path(folder) / f"{which}.weights.h5")
    if which == "best":
        found = load_calibration(folder, digest)
    else:
        found = load_calibration(folder)
        if found is not None and found[0].weights != digest:
            return None, f"temperature and threshold of {folder} were chosen for other weights, and are left out"
    return (None, None) if found is None else (found[0], None)


def data_told(trained: dict) -> dict | None:
    """What config.json tells of the data of a run, and the counts of its manifest, if that is still the one."""
    if not trained:
        return None
    names = ("kind", "images", "malignant", "batches", "fold", "preparation", "manifest", "pixels", "contents")
    told = {name: trained[name] for name in names if trained.get(name) is not None}
    folder = trained.get("folder")
    if folder is None:
        return told
    told["folder"] = Path(folder).name  # what it lies in is the business of a machine
    from keras_stoch.data.splits import manifest_digest, of_run

    try:
        import pandas as pd

        table = pd.read_csv(
            io.BytesIO((as_path(folder) / "manifest.csv").read_bytes()),
            dtype={"image": str, "group": str, "years": str},
        )
        table = of_run(table, trained["fold"])[0] if "fold" in trained else table
        same = manifest_digest(table) == trained["manifest"]
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        return told | {"note": "the manifest is not there any more, or another one: no counts by split"}
    groups = table["group"] if "group" in table else table["file"]
    counts = table.assign(group=groups).groupby("split").agg(
        images=("target", "size"), malignant=("target", "sum"), groups=("group", "nunique")
    )  # fmt: skip
    told["splits"] = {split: {k: int(v) for k, v in row.items()} for split, row in counts.to_dict("index").items()}
    for column in ("years", "diagnosis", "sex"):
        if column in table and table[column].notna().any():
            of = table[column].fillna("unknown").astype(str).value_counts()
            told[column] = {str(value): int(count) for value, count in of.items()}
    record = read_json(as_path(folder) / "prepare.json") or {}
    for source, name in (("split", "split_by"), ("malignant", "counted_as_malignant"), ("labels", "label_files")):
        if source in record:
            told[name] = record[source]
    if "label_files" in told:
        told["label_files"] = [row | {"file": Path(row["file"]).name} for row in told["label_files"]]
    return told


def _source(trained: dict) -> str:
    """Where the training images come from, in words."""
    kind = trained.get("kind")
    if kind == "generated":
        return "generated lesions (keras-stoch lesions), no photographs"
    if kind == "prepared":
        return f"photographs prepared in {Path(trained['folder']).name}; whose they are is not recorded"
    return {"table": "a table of images", "dataset": "a tf.data.Dataset"}.get(kind, "not known")


def _training(folder, config, environment) -> dict | None:
    if not config:
        return None
    result = read_json(as_path(folder) / "result.json") or {}
    known = ("epochs", "best_epoch", "best_val_auc", "final_val_auc", "seconds")
    names = ("python", "keras", "tensorflow", "numpy", "keras-stoch", "cpus", "devices", "started")
    return {
        "seed": config.get("seed"),
        "strategy": config.get("strategy"),
        "replicas": config.get("replicas"),
        "result": {name: result[name] for name in known if name in result} or None,
        "environment": {name: environment[name] for name in names if name in environment},
    }


def _performance(folder, digest, trained, calibration) -> tuple[list[dict], int]:
    """The evaluations that are kept with a run: validation and test first; and how many are of other weights."""
    if folder is None:
        return [], 0
    records, others = load_records(folder, digest)
    found = []
    for record in records:
        own = str(as_path(record["data"]).resolve()) == trained.get("folder")
        notes = list(record["notes"])
        before = record["calibration"]
        if (before and (before["temperature"], before["threshold_logit"])) != (
            calibration and (calibration.temperature, calibration.threshold_logit)
        ):
            notes.append("measured with another temperature or threshold than the model is exported with")
        names = ("split", "images", "malignant", "passes", "bootstraps", "evaluated", "measures", "uncalibrated")
        rest = ("binning", "subgroups", "uncertainty", "change", "paired")
        found.append(
            {"data": Path(record["data"]).name, "external": not own}
            | {name: record[name] for name in (*names, "sensitivity", *rest)}
            | {"notes": notes}
        )
    order = {"test": 0, "validation": 1}
    return sorted(found, key=lambda one: (one["external"], order.get(one["split"], 2))), others


def _limits(performance, others, served, config) -> list[str]:
    """What follows from what is known."""
    found = []
    if not performance:
        found.append("No evaluation was kept with the model: how good it is, is not known here.")
    elif not any(one["external"] for one in performance):
        found.append("It was evaluated on the folder it was trained on alone: how it does elsewhere is not known.")
    if others:
        found.append(f"{others} evaluations of other weights of the run are left out.")
    if served.calibration is None:
        found.append("No temperature was fitted: probabilities are as the network gives them, and may be far too sure.")
    if (config.get("data") or {}).get("kind") == "generated":
        found.append("It has learnt from generated lesions, and knows nothing of photographs.")
    if served.layer is not None:
        found.append(
            "Answers rest on random windows: two calls differ, by as much as `spread` over several draws tells."
        )
    rows = [row for one in performance for row in one["subgroups"] if row["note"]]
    few = dict.fromkeys(f"{row['attribute']} {row['value']}" for row in rows)
    if few:
        found.append(f"Too few cases to say how it does for: {', '.join(few)}.")
    return found


def _answers(served, format) -> dict:
    found = {"probability": "of malignancy, as the network gives it"}
    if served.calibration is not None and format != "keras":
        found["calibrated"] = "of malignancy, after the temperature"
        if served.calibration.threshold_logit is not None:
            found["decision"] = "1 from the threshold on, else 0"
    return {"logit": "of malignancy"} if format == "keras" else found


def _calibration(calibration) -> dict | None:
    if calibration is None:
        return None
    names = ("temperature", "threshold_logit", "rule", "at", "sensitivity", "specificity", "split", "images")
    more = ("malignant", "passes", "log_loss_before", "log_loss_after", "at_bound")
    found = {name: getattr(calibration, name) for name in (*names, *more)}
    return found | {"threshold": calibration.threshold, "data": Path(calibration.data).name}


def _tensors(served, format) -> dict:
    """MONAI's description of inputs and outputs, of the signature that takes tensors."""
    dtype = "uint8" if format == "tf_saved_model" else "float32"
    inputs = {}
    for spec in served.signature:
        if spec.name == "windows":
            inputs["windows"] = {
                "type": "tuples", "format": "points", "modality": "n/a", "num_channels": 2,
                "spatial_shape": [served.layer.filters], "dtype": "int32",
                "value_range": [0, max(served.spans) - 1], "is_patch_data": False,
                "channel_def": {"0": "top", "1": "left"},
            }  # fmt: skip
        else:
            inputs[spec.name] = {
                "type": "image", "format": "magnitude", "modality": "dermoscopy", "num_channels": 3,
                "spatial_shape": list(spec.shape[1:3]), "dtype": dtype, "value_range": [0, 255], "is_patch_data": False,
                "channel_def": {"0": "red", "1": "green", "2": "blue"},
            }  # fmt: skip
    if format == "keras":
        inputs.pop("windows", None)
    outputs = {}
    for name, told in _answers(served, format).items():
        outputs[name] = {
            "type": "probabilities", "format": "classes", "modality": "n/a", "num_channels": 1, "spatial_shape": [],
            "dtype": "int32" if name == "decision" else "float32",
            "value_range": [] if name == "logit" else [0, 1], "is_patch_data": False, "channel_def": {"0": told},
        }  # fmt: skip
    return {"inputs": inputs, "outputs": outputs}
