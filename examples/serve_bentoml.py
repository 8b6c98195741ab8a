"""An exported model behind a model server, BentoML: photographs over HTTP, with TensorFlow alone beside it.

    pip install bentoml tensorflow
    SERVED=served bentoml serve examples/serve_bentoml.py:Lesions
    curl -F image=@photo.jpg -F n=3 localhost:3000/classify

`SERVED` names what `keras-stoch export RUN served` wrote for a model with a detail branch. Neither keras_stoch nor
Keras is imported here.
"""

import os
from pathlib import Path

import bentoml
import tensorflow as tf
from bentoml.exceptions import InvalidArgument


@bentoml.service(traffic={"timeout": 60})
class Lesions:
    def __init__(self):
        self.signatures = tf.saved_model.load(os.environ.get("SERVED", "served")).signatures

    @bentoml.api
    def classify(self, image: Path, n: int = 3) -> dict:
        """Probability of malignancy of one JPEG or PNG, averaged over n draws, and its spread over them."""
        try:
            answer = self.signatures["serve_averaged"](images=tf.constant([image.read_bytes()]), n=tf.constant(n))
        except tf.errors.InvalidArgumentError as error:
            # 400, and the next request is answered.
            raise InvalidArgument("The image is no JPEG or PNG, or damaged; n must be at least 1") from error
        return {name: float(value[0]) for name, value in answer.items()}
