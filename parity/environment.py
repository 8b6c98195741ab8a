"""What the frameworks are, and how TensorFlow is imported without its notices."""

import contextlib
import importlib.util
import logging
import os
import platform
import sys
from importlib import metadata

PACKAGES = ("keras", "tensorflow", "torch", "jax", "numpy", "onnxruntime")


def import_triton_first() -> None:
    """Imports triton, where there is one and TensorFlow is not there yet.

    Both bring an LLVM of their own. TensorFlow before triton 3.7 or 3.8, which torch's CUDA builds bring, ends the
    process as soon as anything imports triton (torch.optim, torchvision); triton before TensorFlow is fine.
    """
    if "tensorflow" in sys.modules or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    with contextlib.suppress(Exception):  # a triton that can't be imported can do no harm
        importlib.import_module("triton")


def import_tensorflow_quietly() -> None:
    """Imports it without what it writes straight to the terminal while it loads, whatever the log level.

    Its warnings are switched off: of functions that are traced anew, above all, which models of many sizes are.
    """
    import_triton_first()
    try:
        importlib.util.find_spec("keras")
    except (ImportError, ValueError):
        sys.modules["keras"] = None  # TensorFlow does without one that is not there, but not with an error
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
