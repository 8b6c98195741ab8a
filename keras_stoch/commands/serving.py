"""The command that serves: export."""

from pathlib import Path

from keras_stoch.commands.options import add_command, load_tensorflow
from keras_stoch.data.decoding import MAX_PIXELS
from keras_stoch.progress import tell
from keras_stoch.training.runs import check_run, load_run


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


def _export(options):
    from keras_stoch.serving.export import check_target, export

    limits = {"max_draws": options.max_draws, "max_pixels": options.max_pixels}
    check_target(options.out, options.format, options.overwrite, **limits)
    file = Path(options.model).suffix == ".keras"
    if not file:
        check_run(options.model, options.which)
    elif not Path(options.model).is_file():
        raise ValueError(f"No such model file: {options.model}")
    load_tensorflow()
    from keras_stoch.models import load_model

    tell(f"loading {options.model}", not options.quiet)
    model = load_model(options.model) if file else load_run(options.model, options.which)
    tell(f"writing {options.out} as {options.format}", not options.quiet)
    print(export(model, options.out, options.format, which=options.which, overwrite=options.overwrite, **limits))
