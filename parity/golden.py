"""Golden inputs and outputs of a deployed model, and whether a file still gives them, with its runtime alone."""

from pathlib import Path

from parity.adapters import adapt
from parity.adapters.artefact import opened
from parity.comparison import ComparisonReport, compare

BESIDE = ("assets.extra", "golden.npz")  # in the folder of a SavedModel: what is there is never loaded by it


def golden_of(path) -> Path:
    """Where the golden inputs and outputs of a deployed model lie: in a SavedModel's folder, beside a file."""
    path = Path(path)
    return path.joinpath(*BESIDE) if path.is_dir() else path.with_name(f"{path.name}.golden.npz")


def verify(path, golden=None, tolerance: float | None = None) -> ComparisonReport:
    """Runs a deployed model on golden inputs and compares what it gives with the golden outputs.

    Args:
        path: folder of a SavedModel, or a file .onnx, .tflite or .pt2. Its own runtime runs it.
        golden: a trace of inputs and outputs, or of a whole model; by default `golden_of(path)`.
        tolerance: relative L2 error that is allowed; by default what the golden file says, or else 1e-4.

    Returns:
        A `ComparisonReport`, `passed` where all outputs agree.

    Raises:
        ValueError: if there is no such file, or its runtime is not installed.
    """
    if not Path(path).exists():
        raise ValueError(f"No such file: {path}")
    file = Path(golden or golden_of(path))
    if not file.is_file():
        raise ValueError(f"{path} has no golden outputs: {file} does not exist; give another with --golden")
    reference = adapt(file)
    if not reference.recorded:
        raise ValueError(f"Golden outputs are a trace (.npz). Received: {file}")
    document = reference.document
    candidate = opened(path, document.get("signature"))
    return compare(reference, candidate, training=False, tolerance=tolerance or document.get("tolerance") or 1e-4)
