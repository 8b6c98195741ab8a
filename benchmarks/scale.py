"""How seconds and memory grow with the number of images, from label rows to the first batch.

    python benchmarks/scale.py [--rows 4000 40000 400000] [--out build/benchmarks/scale.json]

Each number of rows has a process of its own. A label file in the manner of ISIC 2020 (patients have 16 images, a
fifth of which show the lesion of the one before) is read, merged, grouped, audited and split; then a prepared folder
of so many JPEGs (links to a few, 256 pixels a side) is opened, its digests are taken, and a first batch is read from
it. Seconds are the processor's, of all threads, since other programs do not count there; memory is the most that the
process had held by the end of the step; growth is in times the seconds of the column before.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LINKS = 30_000  # to one file; file systems allow 65,000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4000, 40_000, 400_000])
    parser.add_argument("--out", default="build/benchmarks/scale.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the process of one number of rows
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(steps(options.one)))
    found = {}
    for rows in options.rows:
        command = [sys.executable, __file__, "--one", str(rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found[rows] = json.loads(done.stdout.splitlines()[-1])
    print_table(found)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(found, indent=1))


def steps(rows: int) -> dict[str, dict]:
    """Seconds and peak memory in MB of every step with `rows` images."""
    import numpy as np
    import pandas as pd

    from keras_stoch.data.audit import audit, group_images, split_images
    from keras_stoch.data.identity import identify
    from keras_stoch.data.labels import merge_labels, read_labels
    from keras_stoch.data.pipeline import Pipeline
    from keras_stoch.data.synthetic import draw_lesion

    found = {"imports": {"seconds": None, "megabytes": peak()}}

    def timed(name, function):
        begun, clock = time.process_time(), time.perf_counter()
        value = function()
        seconds = {"seconds": time.process_time() - begun, "clock": time.perf_counter() - clock}
        found[name] = seconds | {"megabytes": peak()}
        return value

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        labels, table = folder / "labels.csv", label_table(rows)
        table.to_csv(labels, index=False)
        read = timed("labels read", lambda: read_labels(labels))
        merged = timed("labels merged", lambda: merge_labels(read))
        groups = timed("groups", lambda: group_images(merged))
        timed("audit", lambda: str(audit(read)))
        held = timed("split", lambda: split_images(merged["target"], groups))
        write_folder(folder / "prepared", merged, np.where(held, "validation", "train"), draw_lesion(1, 0, 256))
        options = {"batch_size": 32, "low_res": 64, "high_res": 256, "augment": True, "shuffle": True}
        pipeline = timed("pipeline", lambda: Pipeline(folder / "prepared", **options))
        manifest = pd.read_csv(folder / "prepared" / "manifest.csv")
        files = [str(folder / "prepared" / name) for name in manifest["file"]]
        timed("digests", lambda: identify(folder / "prepared", manifest, files))
        timed("TensorFlow imported", lambda: importlib.import_module("tensorflow").data.Dataset.range(1))
        timed("first batch", lambda: next(iter(pipeline.epoch(0))))
    return found


def label_table(rows: int):
    """A DataFrame of labels: image, target, patient_id, lesion_id."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    patients = np.arange(rows) // 16
    lesions = np.maximum(np.arange(rows) - (rng.random(rows) < 0.2), patients * 16)  # of the image before, or its own
    return pd.DataFrame(
        {
            "image": [f"ISIC_{n:07d}" for n in range(rows)],
            "target": (rng.random(rows) < 0.02).astype(int),
            "patient_id": [f"IP_{n}" for n in patients],
            "lesion_id": [f"IL_{n}" for n in lesions],
        }
    )


def write_folder(folder: Path, merged, split, pixels):
    """A prepared folder: a manifest, and a JPEG for every image, of which many are one file."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    names = [f"images/{image}.jpg" for image in merged["image"]]
    for number, name in enumerate(names):
        if number % LINKS == 0:
            first = folder / name
            Image.fromarray(pixels).save(first, quality=90)
        else:
            os.link(first, folder / name)
    hashes = [f"{number:064x}" for number in range(len(names))]
    table = merged[["image", "target"]].assign(file=names, split=split, hash=hashes, sha256=hashes)
    table.to_csv(folder / "manifest.csv", index=False)


def peak() -> float:
    """The most memory that this process has held, in MB."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def print_table(found):
    """Seconds, memory and growth: how many times the seconds of the column before."""
    columns = list(found)
    print("| step | " + " | ".join(f"{rows:,} rows, s | MB | growth" for rows in columns) + " |")
    print("|---|" + "---:|---:|---:|" * len(columns))
    for name in found[columns[0]]:
        cells = []
        for before, rows in zip([None, *columns], columns, strict=False):
            seconds, megabytes = found[rows][name]["seconds"], found[rows][name]["megabytes"]
            growth = "" if before is None or seconds is None else f"{seconds / found[before][name]['seconds']:.1f}"
            cells.append(f"{'' if seconds is None else f'{seconds:.2f}'} | {megabytes:.0f} | {growth}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
