"""Commands on models: models, windows."""

from pathlib import Path

from keras_stoch.commands.options import add_command, load_tensorflow, place_for


def add_models(commands):
    add_command(commands, "models", _models, "print parameters and multiply-adds of every model")


def _models(options):
    load_tensorflow()
    from keras_stoch import summary

    print(summary.render(summary.table()))


def add_windows(commands):
    command = add_command(commands, "windows", _windows, "draw the windows of a stochastic stem over a photograph")
    command.add_argument("image", metavar="IMAGE", help="a photograph")
    command.add_argument("--out", default="windows.png", metavar="FILE", help="the figure")
    command.add_argument("--model", default="split-b0", metavar="NAME", help="a stem-, skip- or split- model")
    command.add_argument("--seed", type=int, default=0, help="of the draws")


def _windows(options):
    from keras_stoch.architectures import get_architecture

    architecture = get_architecture(options.model)
    if architecture.join is None:
        raise ValueError(f"{options.model} has no stochastic stem; choose one of the stem-, skip- or split- models")
    if not Path(options.image).is_file():
        raise ValueError(f"No such photograph: {options.image}")
    place_for(options.out)
    load_tensorflow()
    import keras
    import numpy as np
    from PIL import Image

    from keras_stoch.data.photographs import Dropped, no_warnings, open_image
    from keras_stoch.data.prepare import Settings, prepare_image
    from keras_stoch.evaluation.figures import windows_figure
    from keras_stoch.windows import draw_windows, window_size

    side = architecture.high_res
    settings = Settings(size=max(side, 1024), min_side=1)  # as `predict` prepares it
    with no_warnings():
        try:
            image, _ = prepare_image(open_image(options.image), settings)
        except Dropped as reason:
            raise ValueError(f"{options.image}: {reason}") from None
    pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    window = window_size(((architecture.low_res + 1) // 2,) * 2, (3, 3), (2, 2))
    seed = keras.random.SeedGenerator(options.seed)
    draws = [np.asarray(draw_windows((side, side), window, architecture.stem_filters, seed=seed)) for _ in range(10)]
    print(windows_figure(pixels, np.stack(draws), window, options.out))
