"""The command line: `keras-stoch ...`, a thin face over the library's functions.

Exit codes: 0 done, 2 a wrong argument.
"""

import argparse
import sys


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="keras-stoch", description="Stochastic convolutions in Keras.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("models", help="print parameters and multiply-adds of every model")
    windows = commands.add_parser("windows", help="draw the windows of a stochastic stem over a photograph")
    windows.add_argument("image", metavar="IMAGE", help="a photograph")
    windows.add_argument("--out", default="windows.png", metavar="FILE", help="default: windows.png")
    windows.add_argument("--model", default="split-b0", metavar="NAME", help="default: split-b0")
    windows.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        return {"models": _models, "windows": _windows}[options.command](options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _models(options) -> int:
    from keras_stoch import summary

    print(summary.render(summary.table()))
    return 0


def _windows(options) -> int:
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
    print(windows_figure(pixels, np.stack(draws), window, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
