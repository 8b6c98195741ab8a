"""The command that serves: export."""

from pathlib import Path

from keras_stoch.commands.options import add_command


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


def _export(options):
    from keras_stoch.models import load_model
    from keras_stoch.serving.export import export

    model = load_model(options.model) if Path(options.model).suffix == ".keras" else options.model
    print(export(model, options.out, options.format, which=options.which, overwrite=options.overwrite))
