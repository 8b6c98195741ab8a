"""`python -m keras_stoch`, the same as `keras-stoch`."""

import sys

from keras_stoch.cli import main

sys.exit(main())
