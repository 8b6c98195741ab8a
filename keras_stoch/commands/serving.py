"""The command that serves: export."""

from pathlib import Path

from keras_stoch.commands.options import add_command, load_tensorflow
from keras_stoch.data.decoding import MAX_PIXELS
from keras_stoch.progress import tell
from keras_stoch.training.runs import check_run


def add_export(commands):
    command = add_command(commands, "export", _export, "write a trained model for serving")
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
    command.add_argument("--max-draws", type=int, default=256, metavar="N", help="that serve_averaged takes")
    command.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="of a photograph that is decoded"
    )
    command.add_argument(
        "--card",
        metavar="FILE",
        help="JSON with fields of the card that you state: authors, license, intended_use, limits, ...",
    )
    command.add_argument(
        "--golden", type=int, default=0, metavar="N", help="golden inputs and outputs for `python -m parity verify`"
    )


def _export(options):
    from keras_stoch.serving.export import card_paths, check_target, export

    limits = {"max_draws": options.max_draws, "max_pixels": options.max_pixels, "golden": options.golden}
    check_target(options.out, options.format, options.overwrite, **limits)
    file = Path(options.model).suffix == ".keras"
    if not file:
        check_run(options.model, options.which)
    elif not Path(options.model).is_file():
        raise ValueError(f"No such model file: {options.model}")
    if options.card is not None and not Path(options.card).is_file():
        raise ValueError(f"--card: no such file. Received: {options.card}")
    load_tensorflow()
    from keras_stoch.models import load_model

    tell(f"writing {options.out} as {options.format}", not options.quiet)
    model = load_model(options.model) if file else options.model
    given = {"which": options.which, "overwrite": options.overwrite, "card": options.card}
    path = export(model, options.out, options.format, **given, **limits)
    print(path)
    print(card_paths(path, options.format)[1])
