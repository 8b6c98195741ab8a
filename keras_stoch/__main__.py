import sys

from keras_stoch.cli import main

sys.exit(main())
