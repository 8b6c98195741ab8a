"""SavedModel: signatures for tensors and for encoded photographs. It runs with TensorFlow alone:

served = tf.saved_model.load("served")
served.signatures["serve_bytes"](images=tf.constant([open("photo.jpg", "rb").read()]))["probability"]
"""


def write(served, path):
    # Not in the form that is fastest here: a server may be another kind of machine, and TensorFlow Serving compiles
    # with XLA on CPUs only if told to.
    with served.plain():
        write_archive(served.model, served.endpoints(), path)


def write_archive(model, endpoints, path):
    """A SavedModel with these endpoints: name -> tf.function with a signature."""
    from keras.export import ExportArchive

    archive = ExportArchive()
    archive.track(model)
    for name, function in endpoints.items():
        archive.add_endpoint(name, function)
    archive.write_out(str(path), verbose=False)
