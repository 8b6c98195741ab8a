"""What `evaluate` found out about a run, kept with it for the card of an export: RUN/evaluations/*.json."""

import hashlib
import json

from keras_stoch.files import write_atomically
from keras_stoch.storage import as_path

FOLDER = "evaluations"


def save_record(folder, record: dict, weights: str):
    """Stores an evaluation in the folder of a run, in place of an earlier one of the same images and draws.

    Args:
        folder: of the run.
        record: of `Evaluation.record`.
        weights: digest of the weights that were evaluated.
    """
    folder = as_path(folder) / FOLDER
    folder.mkdir(exist_ok=True)
    of = json.dumps([record[name] for name in ("data", "split", "passes", "images")])
    name = hashlib.sha256(of.encode()).hexdigest()[:16]
    write_atomically(folder / f"{name}.json", json.dumps(record | {"weights": weights}, indent=1) + "\n")


def load_records(folder, weights: str) -> tuple[list[dict], int]:
    """The evaluations of a run, and how many there are beside them of other weights.

    Args:
        folder: of the run.
        weights: digest of the weights.
    """
    found, others = [], 0
    folder = as_path(folder) / FOLDER
    for path in sorted(folder.glob("*.json")) if folder.exists() else ():
        record = json.loads(path.read_text())
        if record.get("weights") == weights:
            found.append(record)
        else:
            others += 1
    return sorted(found, key=lambda record: (record["evaluated"], record["data"], record["split"])), others
