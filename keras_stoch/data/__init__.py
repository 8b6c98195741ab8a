"""From raw ISIC downloads to batches: label files, audit, preparation, augmentation, pipelines. Section 4.1.5.

`labels`, `audit`, `prepare` and `synthetic` need no TensorFlow. The functions people use are also in `keras_stoch`.
"""
