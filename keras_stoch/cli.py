"""The command line: `keras-stoch ...`, a thin face over the library's functions.

Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted; 1, with a traceback, an error
of the program itself.
"""

import argparse
import os
import sys
from pathlib import Path

from keras_stoch.recipe import TrainingDiverged


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-stoch",
        description="Stochastic convolutions in Keras: prepare photographs, train, evaluate, serve.",
        epilog="Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted; 1, with a "
        "traceback, an error of the program itself.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_prepare,
        _add_audit,
        _add_lesions,
        _add_augment,
        _add_fit,
        _add_evaluate,
        _add_predict,
        _add_export,
        _add_experiment,
        _add_models,
        _add_windows,
    ):
        add(commands)
    return parser


def main(arguments=None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notices about its build are not the user's
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        more = "; the same command goes on where this one stopped" if options.resumes else ""
        print(f"interrupted{more}", file=sys.stderr)
        return 130


def _add(commands, name, run, help, resumes=False):
    """A subcommand whose long help is the same sentence as the short one.

    Args:
        resumes: whether the same command goes on where it was interrupted.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, resumes=resumes)
    return command


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def _place_for(file) -> Path:
    """The path of a file to be written, in a folder that exists from now on: what is wrong shows before the work."""
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _add_split(command):
    group = command.add_argument_group("split")
    group.add_argument(
        "--split",
        choices=("group", "random"),
        default="group",
        help="keep duplicates, lesions and patients on one side, or split at random as the paper did",
    )
    group.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="share of validation images")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the split")


def _add_malignant(command):
    command.add_argument(
        "--malignant",
        default="paper",
        metavar="RULE",
        help="what counts as malignant: paper, melanoma, or classes such as MEL,BCC",
    )


def _rule(options):
    return options.malignant.split(",") if options.malignant.isupper() else options.malignant


def _bar_wanted():
    return sys.stderr.isatty() or os.environ.get("KERAS_STOCH_PROGRESS") == "1"


def _add_prepare(commands):
    command = _add(
        *(commands, "prepare", _prepare, "filter, crop and resize labelled photographs; goes on if interrupted"),
        resumes=True,
    )
    command.add_argument("raw", metavar="RAW", help="folder of photographs, searched at any depth")
    command.add_argument("labels", nargs="+", metavar="LABELS", help="label files, or folders of them")
    command.add_argument("out", metavar="OUT", help="folder to write, new or from an earlier run of this command")
    pixels = command.add_argument_group("pixels")
    pixels.add_argument("--size", type=int, default=1024, metavar="PIXELS", help="side of the prepared images")
    pixels.add_argument("--min-side", type=int, default=1000, metavar="PIXELS", help="smaller images are dropped")
    pixels.add_argument("--crop-over", type=int, default=3048, metavar="PIXELS", help="larger images are cropped")
    pixels.add_argument("--crop-to", type=int, default=2048, metavar="PIXELS", help="to this side")
    pixels.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="of the prepared images")
    pixels.add_argument("--quality", type=int, default=95, help="of JPEG, without chroma subsampling")
    _add_malignant(command)
    command.add_argument("--on-conflict", choices=("latest", "drop"), default="latest", help="if years disagree")
    _add_split(command)
    command.add_argument("--shards", type=int, default=0, metavar="N", help="also write N TFRecord files")
    command.add_argument("--workers", type=int, metavar="N", help="threads; all cores if left out")


def _prepare(options):
    from keras_stoch.data.prepare import Settings, describe, prepare

    settings = Settings(
        *(options.size, options.min_side, options.crop_over, options.crop_to, options.format, options.quality)
    )
    record = prepare(
        options.raw,
        options.labels,
        options.out,
        settings=settings,
        malignant=_rule(options),
        on_conflict=options.on_conflict,
        split=options.split,
        validation=options.validation,
        seed=options.seed,
        shards=options.shards,
        workers=options.workers,
        progress=_bar_wanted(),
    )
    print(describe(record))
    print(f"{options.out}/manifest.csv and prepare.json tell the rest")


def _add_audit(commands):
    command = _add(commands, "audit", _audit, "count duplicates, conflicting labels and what a random split leaks")
    command.add_argument("labels", nargs="+", metavar="LABELS", help="label files, or folders of them")
    command.add_argument("--images", metavar="FOLDER", help="photographs, to find near-duplicates among")
    command.add_argument("--json", metavar="FILE", help="also write the findings there")
    _add_malignant(command)
    _add_split(command)


def _audit(options):
    from keras_stoch.data.audit import audit
    from keras_stoch.data.labels import read_labels

    if options.json:
        _place_for(options.json)
    found = audit(
        read_labels(options.labels, _rule(options)),
        options.images,
        validation=options.validation,
        split=options.split,
        seed=options.seed,
        progress=_bar_wanted(),
    )
    print(found)
    if options.json:
        print(f"\n{found.to_json(options.json)}")


def _add_lesions(commands):
    command = _add(commands, "lesions", _lesions, "write generated lesions whose class lies in fine detail only", True)
    command.add_argument("out", metavar="OUT", help="folder to write")
    command.add_argument("--count", type=int, default=1000, metavar="N", help="images, half of each class")
    command.add_argument("--size", type=int, default=1024, metavar="PIXELS", help="their side")
    command.add_argument("--strength", type=float, default=1.0, help="0 makes the classes equal; at most 3")
    command.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="share of validation images")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn")
    command.add_argument("--figure", metavar="FILE", help="also draw some of them")


def _lesions(options):
    from keras_stoch.data.synthetic import write_lesions

    if options.figure:
        _place_for(options.figure)
    print(
        write_lesions(
            options.out,
            options.count,
            size=options.size,
            strength=options.strength,
            validation=options.validation,
            seed=options.seed,
            progress=_bar_wanted(),
        )
    )
    if options.figure:
        from keras_stoch.figures import lesions_figure

        print(lesions_figure(options.figure, size=options.size, strength=options.strength, seed=options.seed))


def _add_augment(commands):
    command = _add(commands, "augment", _augment, "draw prepared images and their augmented pairs")
    command.add_argument("data", metavar="PREPARED", help="folder written by prepare or lesions")
    command.add_argument("--out", default="augmented.png", metavar="FILE", help="the figure")
    command.add_argument("--images", type=int, default=4, metavar="N", help="how many")
    command.add_argument("--epochs", type=int, default=2, metavar="N", help="augmented pairs of each")
    command.add_argument("--low-res", type=int, default=224, metavar="PIXELS", help="side of the small images")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the transforms")


def _augment(options):
    from keras_stoch.figures import augmentation_figure

    print(
        augmentation_figure(
            *(options.data, _place_for(options.out)),
            images=options.images,
            epochs=options.epochs,
            low_res=options.low_res,
            seed=options.seed,
        )
    )


def _add_fit(commands):
    import dataclasses

    from keras_stoch.recipe import PRECISIONS, Recipe

    explained = _attributes(Recipe)
    choices = {"mixed_precision": PRECISIONS[1:], "window_sharing": ("batch", "image")}
    command = _add(commands, "fit", _fit, "train a model, one or several times; goes on if interrupted", True)
    command.add_argument("model", metavar="MODEL", help="a name such as split-b0, see `keras-stoch models`")
    command.add_argument(
        "--data", metavar="PREPARED", help="folder written by prepare or lesions; generated if left out"
    )
    command.add_argument("--out", default="runs/latest", metavar="FOLDER", help="folder of the runs")
    command.add_argument("--runs", type=int, default=1, metavar="N", help="runs from different seeds")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the first run")
    command.add_argument("--strategy", default="one", choices=("one", "mirrored", "multiworker"), help="devices to use")
    command.add_argument("--checkpoint-seconds", type=float, default=300, metavar="S", help="between checkpoints")
    recipe = command.add_argument_group("recipe (the defaults are the paper's)")
    for field in dataclasses.fields(Recipe):
        name, kind, told = "--" + field.name.replace("_", "-"), type(field.default), explained[field.name]
        if kind is bool:
            recipe.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=told)
        elif field.name in choices:
            recipe.add_argument(name, choices=choices[field.name], default=field.default, help=told)
        else:
            kind = int if field.name in ("low_res", "high_res") else kind
            metavar = {int: "N", float: "X"}[kind]
            recipe.add_argument(name, type=kind, default=field.default, metavar=metavar, help=told)


def _attributes(cls) -> dict[str, str]:
    """Names of a class's attributes and what its docstring says of them."""
    import inspect
    import re

    text = inspect.getdoc(cls).partition("Attributes:\n")[2]
    found = {}
    for names, told in re.findall(r"^    ([a-z_, ]+): (.*(?:\n {8,}.*)*)", text, re.MULTILINE):
        sentence = " ".join(told.split()).rstrip(".")
        found |= {name: sentence.replace("%", "%%") for name in names.split(", ")}
    return found


def _fit(options):
    import dataclasses

    import keras_stoch
    from keras_stoch.recipe import Recipe

    results = keras_stoch.fit(
        options.model,
        options.data,
        options.out,
        runs=options.runs,
        seed=options.seed,
        strategy=options.strategy,
        checkpoint_seconds=options.checkpoint_seconds,
        progress=_bar_wanted(),
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)},
    )
    for run, result in enumerate(results):
        print(
            f"{options.out}/run-{run}: best validation AUC {result['best_val_auc']:.4f} in epoch "
            f"{result['best_epoch']}, final {result['final_val_auc']:.4f}, {result['seconds']:.0f} s"
        )


def _add_evaluate(commands):
    command = _add(commands, "evaluate", _evaluate, "ROC AUC with an interval, and sensitivities, of a trained run")
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
    import keras_stoch

    split = None if options.split == "all" else options.split
    found = keras_stoch.evaluate(
        *(options.run_folder, options.data, split), passes=options.passes, batch_size=options.batch_size
    )
    print(found)
    if options.out:
        from keras_stoch.figures import roc_figure

        roc_figure(found, found.save(options.out) / "roc.png")
        print(options.out)


def _add_predict(commands):
    command = _add(commands, "predict", _predict, "probabilities for photographs, as CSV")
    command.add_argument("run_folder", metavar="RUN", help="such as runs/latest/run-0")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    command.add_argument("--passes", type=int, default=1, metavar="N", help="draws to average over")
    command.add_argument("--out", metavar="FILE", help="CSV to write; printed if left out")


def _predict(options):
    import keras_stoch
    from keras_stoch.data.photographs import SUFFIXES
    from keras_stoch.data.prepare import write_atomically

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
        _place_for(options.out)
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


def _add_export(commands):
    command = _add(commands, "export", _export, "write a trained model for serving")
    command.add_argument("model", metavar="RUN", help="folder of a run, such as runs/split/run-0, or a .keras file")
    command.add_argument("out", metavar="OUT", help="folder for tf_saved_model; a .keras, .onnx or .tflite file else")
    command.add_argument(
        "--format",
        choices=("tf_saved_model", "keras", "onnx", "litert"),
        default="tf_saved_model",
        help="what to write",
    )
    command.add_argument("--which", choices=("best", "last"), default="best", help="weights of the run")
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _export(options):
    from keras_stoch.models import load_model
    from keras_stoch.serving import export

    model = load_model(options.model) if Path(options.model).suffix == ".keras" else options.model
    print(export(model, options.out, options.format, which=options.which, overwrite=options.overwrite))


def _add_experiment(commands):
    command = _add(commands, "experiment", _experiment, "the paper's comparison of models, on generated lesions", True)
    command.add_argument("--out", default="runs/experiment", metavar="DIR", help="folder of runs, table and figure")
    command.add_argument("--runs", type=int, default=3, metavar="N", help="per model")
    command.add_argument("--epochs", type=int, default=10, metavar="N", help="per run")
    command.add_argument("--images", type=int, default=3000, metavar="N", help="generated lesions")


def _experiment(options):
    from keras_stoch.experiment import Experiment, run

    settings = Experiment(runs=options.runs, epochs=options.epochs, images=options.images)
    table = run(options.out, settings, progress=_bar_wanted())
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"{options.out}/results.csv\n{options.out}/curves.png")


def _add_models(commands):
    _add(commands, "models", _models, "print parameters and multiply-adds of every model")


def _models(options):
    from keras_stoch import summary

    print(summary.render(summary.table()))


def _add_windows(commands):
    command = _add(commands, "windows", _windows, "draw the windows of a stochastic stem over a photograph")
    command.add_argument("image", metavar="IMAGE", help="a photograph")
    command.add_argument("--out", default="windows.png", metavar="FILE", help="the figure")
    command.add_argument("--model", default="split-b0", metavar="NAME", help="a stem-, skip- or split- model")
    command.add_argument("--seed", type=int, default=0, help="of the draws")


def _windows(options):
    import keras
    import numpy as np
    from PIL import Image

    from keras_stoch.architectures import get_architecture
    from keras_stoch.figures import windows_figure
    from keras_stoch.windows import draw_windows, window_size

    architecture = get_architecture(options.model)
    if architecture.join is None:
        raise ValueError(f"{options.model} has no stochastic stem; choose one of the stem-, skip- or split- models")
    with Image.open(options.image) as image:
        side = architecture.high_res
        pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    window = window_size(((architecture.low_res + 1) // 2,) * 2, (3, 3), (2, 2))
    seed = keras.random.SeedGenerator(options.seed)
    draws = [np.asarray(draw_windows((side, side), window, architecture.stem_filters, seed=seed)) for _ in range(10)]
    print(windows_figure(pixels, np.stack(draws), window, _place_for(options.out)))


if __name__ == "__main__":
    sys.exit(main())
