"""Commands on trained runs: evaluate, predict."""

import sys
from pathlib import Path

import keras_stoch
from keras_stoch.commands.options import add_command, place_for


def add_evaluate(commands):
    command = add_command(
        commands, "evaluate", _evaluate, "ROC AUC with an interval, and sensitivities, of a trained run"
    )
    command.add_argument("run_folder", metavar="RUN", help="such as runs/latest/run-0")
    command.add_argument("data", metavar="PREPARED", help="folder written by prepare or lesions")
    command.add_argument(
        "--split", default="validation", choices=("train", "validation", "all"), help="images to evaluate on"
    )
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at once")
    command.add_argument(
        "--out", metavar="FOLDER", help="also write predictions.csv, roc.csv, evaluation.json, roc.png"
    )


def _evaluate(options):
    split = None if options.split == "all" else options.split
    found = keras_stoch.evaluate(
        *(options.run_folder, options.data, split), passes=options.passes, batch_size=options.batch_size
    )
    print(found)
    if options.out:
        from keras_stoch.evaluation.figures import roc_figure

        roc_figure(found, found.save(options.out) / "roc.png")
        print(options.out)


def add_predict(commands):
    command = add_command(commands, "predict", _predict, "probabilities for photographs, as CSV")
    command.add_argument("run_folder", metavar="RUN", help="such as runs/latest/run-0")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--out", metavar="FILE", help="CSV to write; printed if left out")


def _predict(options):
    from keras_stoch.data.photographs import SUFFIXES
    from keras_stoch.files import write_atomically

    paths = []
    for given in map(Path, options.images):
        if not given.exists():
            raise ValueError(f"No such image or folder: {given}")
        # All of them, also where several have one name, as in the folders of two patients.
        inside = [p for p in sorted(given.rglob("*")) if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
        inside = [p for p in inside if p.is_file()]
        if given.is_dir() and not inside:
            raise ValueError(f"No images ({', '.join(SUFFIXES)}) below {given}")
        paths += inside if given.is_dir() else [given]
    if options.out:
        place_for(options.out)
    table = keras_stoch.predict_photographs(options.run_folder, paths, passes=options.passes)
    text = table.to_csv(index=False, lineterminator="\n")
    if options.out:
        print(write_atomically(options.out, text))
    else:
        print(text, end="")
    unread = int((table["error"] != "").sum())
    if unread:
        print(f"{unread} of {len(table)} images could not be read; the column error says why", file=sys.stderr)
    return 2 if unread == len(table) else 0
