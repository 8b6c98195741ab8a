"""Commands on trained runs: evaluate, compare, evidence, predict."""

import sys
from pathlib import Path

import keras_stoch
from keras_stoch.commands.options import add_command, load_tensorflow, place_for
from keras_stoch.files import check_no_file, check_prepared, of_this_machine, write_atomically
from keras_stoch.progress import tell
from keras_stoch.training.runs import check_run, check_runs

SPLITS = ("train", "validation", "test", "all")
FIGURES = (".png", ".svg", ".pdf", ".jpg")
MEASURES = ("auc", "partial_auc", "average_precision", "brier", "log_loss")


def add_evaluate(commands):
    command = add_command(
        commands, "evaluate", _evaluate, "how good a run is: ranking, calibration, threshold, subgroups, with intervals"
    )
    command.add_argument(
        "run_folder", metavar="RUN", help="such as runs/latest/run-0; runs/latest asks all runs in it as an ensemble"
    )
    command.add_argument("data", metavar="PREPARED", help="folder written by prepare or lesions")
    command.add_argument("--split", default="validation", choices=SPLITS, help="images to evaluate on")
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at once")
    command.add_argument(
        "--calibrate",
        metavar="SPLIT",
        choices=SPLITS,
        help="fit a temperature on these images and store it with the run: validation, as a rule",
    )
    command.add_argument(
        "--sensitivity", type=float, metavar="X", help="with --calibrate: store the threshold that reaches it, 0.9 say"
    )
    command.add_argument(
        "--specificity", type=float, metavar="X", help="with --calibrate: store the threshold that reaches it"
    )
    command.add_argument(
        "--out",
        metavar="FOLDER",
        help="also write evaluation.html, evaluation.json, predictions.csv, subgroups.csv, roc.csv, roc.png",
    )


def _evaluate(options):
    for name in ("sensitivity", "specificity"):
        if getattr(options, name) is not None and options.calibrate is None:
            raise ValueError(f"--{name} chooses a threshold, which needs --calibrate SPLIT to choose it on")
    check_runs(options.run_folder, passes=options.passes)
    check_prepared(options.data)
    if options.out:
        check_no_file(of_this_machine(options.out, "An evaluation is"))
    load_tensorflow()
    found = keras_stoch.evaluate(
        *(options.run_folder, options.data, None if options.split == "all" else options.split),
        passes=options.passes,
        batch_size=options.batch_size,
        calibrate=options.calibrate,
        sensitivity=options.sensitivity,
        specificity=options.specificity,
        progress=not options.quiet,
    )
    print(found)
    if options.out:
        from keras_stoch.evaluation.figures import roc_figure

        roc_figure(found, found.save(options.out) / "roc.png")
        print(options.out)


def add_compare(commands):
    command = add_command(commands, "compare", _compare, "compare runs on the same images, corrected for their number")
    command.add_argument(
        "run_folders", nargs="+", metavar="RUN", help="two or more, such as runs/b0/run-0 or runs/split"
    )
    command.add_argument(
        "--data",
        metavar="PREPARED",
        help="images to compare on; without it, the logits that evaluate --calibrate stored",
    )
    command.add_argument("--split", default="validation", choices=SPLITS, help="of --data")
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--measure", default="auc", choices=MEASURES, help="what to compare")
    command.add_argument(
        "--method",
        default="auto",
        choices=("auto", "delong", "bootstrap"),
        help="DeLong's test where no group holds two images, else a paired bootstrap that draws groups whole",
    )
    command.add_argument("--out", metavar="FILE", help="also write it as JSON")


def _compare(options):
    if len(options.run_folders) < 2:
        raise ValueError(f"compare takes two runs or more. Received: {options.run_folders[0]}")
    for folder in options.run_folders:
        check_runs(folder)
    if options.data:
        check_prepared(options.data)
    if options.out:
        place_for(options.out)
    load_tensorflow()
    found = keras_stoch.compare(
        *(options.run_folders, options.data, None if options.split == "all" else options.split),
        passes=options.passes,
        measure=options.measure,
        method=options.method,
    )
    print(found)
    if options.out:
        print(found.save(options.out))


def add_evidence(commands):
    command = add_command(
        commands, "evidence", _evidence, "which regions of a photograph carry its score, from draws of the windows"
    )
    command.add_argument("run_folder", metavar="RUN", help="such as runs/split/run-0, of a model with a detail branch")
    command.add_argument("photograph", metavar="PHOTO", help="a photograph of any size")
    command.add_argument("--draws", type=int, default=200, metavar="N", help="more make the map surer")
    command.add_argument("--cells", type=int, default=8, metavar="N", help="per side of the map")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws")
    command.add_argument(
        "--out", default="evidence.png", metavar="FILE", help="figure to write; the numbers go beside it, as .csv"
    )


def _evidence(options):
    model = check_run(options.run_folder)
    if not model["draws"]:
        raise ValueError(f"{model['name']!r} draws no windows to learn from; a model with a detail branch does")
    if not Path(options.photograph).is_file():
        raise ValueError(f"No such photograph: {options.photograph}")
    path = Path(options.out)
    if path.suffix.lower() not in FIGURES:
        raise ValueError(f"--out must end with one of {', '.join(FIGURES)}. Received: {path}")
    place_for(path)
    load_tensorflow()
    found = keras_stoch.evidence(
        options.run_folder, options.photograph, draws=options.draws, cells=options.cells, seed=options.seed
    )
    print(found)
    print(found.figure(path))
    print(write_atomically(path.with_suffix(".csv"), found.table().to_csv(index=False, lineterminator="\n")))


def add_predict(commands):
    command = add_command(commands, "predict", _predict, "probabilities for photographs, as CSV")
    command.add_argument("run_folder", metavar="RUN", help="such as runs/latest/run-0")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--out", metavar="FILE", help="CSV to write; printed if left out")


def _predict(options):
    from keras_stoch.data.photographs import describe_passed_over, find_photographs

    check_runs(options.run_folder, passes=options.passes)
    paths = []
    for given in map(Path, options.images):
        if not given.exists():
            raise ValueError(f"No such image or folder: {given}")
        # All of a folder, also where several have one name, as in the folders of two patients.
        inside, passed_over = find_photographs(given) if given.is_dir() else ([given], {})
        if passed_over:
            tell(f"{given}: {describe_passed_over(passed_over)}")
        paths += inside
    if options.out:
        place_for(options.out)
    load_tensorflow()
    table = keras_stoch.predict_photographs(
        options.run_folder, paths, passes=options.passes, progress=not options.quiet
    )
    text = table.to_csv(index=False, lineterminator="\n")
    if options.out:
        print(write_atomically(options.out, text))
    else:
        print(text, end="")
    unread = int((table["error"] != "").sum())
    if unread:
        print(f"{unread} of {len(table)} images could not be read; the column error says why", file=sys.stderr)
    return 2 if unread == len(table) else 0
