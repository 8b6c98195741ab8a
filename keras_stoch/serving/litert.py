"""LiteRT: the function of "serve_windows", with the draws as an input, for a batch of one."""

import tempfile

import tensorflow as tf

from keras_stoch.serving.savedmodel import write_archive


def write(served, path):
    function, _ = served.function_of_windows(1)
    # By way of a SavedModel, for only that names inputs and outputs.
    with tempfile.TemporaryDirectory() as folder:
        with served.plain():
            write_archive(served.model, {"serve": function}, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        try:
            converted = converter.convert()
        except Exception as error:  # of a thousand lines, the first of which says what was wrong
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"LiteRT can not hold this model: {first}") from None
        path.write_bytes(converted)
