"""What the frameworks are, and how TensorFlow is imported without its notices."""

import logging
import os
import platform
import sys
from importlib import metadata

PACKAGES = ("keras", "tensorflow", "torch", "jax", "numpy")


def import_tensorflow_quietly() -> None:
    """Imports it without what it writes straight to the terminal while it loads, whatever the log level.

    Its warnings are switched off: of functions that are traced anew, above all, which models of many sizes are.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def versions() -> dict[str, str]:
    """Versions and machine, as they stand in every report."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found
