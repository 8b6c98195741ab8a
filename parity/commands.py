"""The instrument's commands: `python -m parity compare | record | verify | inputs`."""

import contextlib
import importlib
import os
import shlex
import sys
from pathlib import Path

FILES = (".npz", ".onnx", ".tflite", ".pt2", ".keras", ".h5", ".pt", ".pth", ".safetensors")
MODEL = "module:function that returns a model, or the path of a trace or of a deployed model"


def add_arguments(commands) -> None:
    """Adds the commands to a parser's sub-parsers; each sets `handler`."""
    compare = commands.add_parser(
        "compare",
        help="compare any two models",
        description="Compares any two models. Each is given as module:function, called without arguments, or as a "
        "path: of a trace that `record` wrote, which has inputs of its own, or of a deployed model.",
    )
    compare.add_argument("reference", metavar="REFERENCE", help=MODEL)
    compare.add_argument("candidate", metavar="CANDIDATE", help=MODEL)
    _add_inputs(compare)
    compare.add_argument(
        "--transfer", action="store_true", help="copy the reference's weights into the candidate first"
    )
    compare.add_argument("--no-training", action="store_true", help="compare inference only")
    compare.add_argument(
        "--strict", action="store_true", help="fail for known differences of the frameworks too (unbiased variance)"
    )
    compare.add_argument(
        "--ignore", nargs="+", default=(), metavar="PATTERN", help="names of layers and weights that are not compared"
    )
    compare.add_argument(
        "--explain", action="store_true", help="every place at which they part, on both sides, and its cause"
    )
    compare.add_argument("--out", metavar="DIR", help="write report.html, report.json and depth.svg there")
    compare.set_defaults(handler=run_compare)

    record = commands.add_parser(
        "record",
        help="record a model, to be compared elsewhere",
        description="Records what a model does, to be compared on another machine or without its framework.",
    )
    record.add_argument("model", metavar="MODEL", help="module:function that returns a model")
    record.add_argument("--out", required=True, metavar="FILE.npz", help="the trace to write")
    _add_inputs(record)
    record.add_argument("--no-training", action="store_true", help="record inference only")
    record.add_argument(
        "--statistics", action="store_true", help="keep 256 sums of every intermediate instead of its values"
    )
    record.set_defaults(handler=run_record)

    verify = commands.add_parser(
        "verify",
        help="check a deployed model against its golden outputs",
        description="Checks a deployed file against the golden inputs and outputs beside it, with its runtime alone.",
    )
    verify.add_argument("path", metavar="PATH", help="folder of a SavedModel, or a file .onnx, .tflite, .pt2")
    verify.add_argument("--golden", metavar="FILE.npz", help="default: the one that `export(golden=)` put beside it")
    verify.add_argument(
        "--tolerance", type=float, metavar="X", help="relative error that is allowed; default: as the file says"
    )
    verify.set_defaults(handler=run_verify)

    pictures = commands.add_parser(
        "inputs",
        help="compare what two preprocessing pipelines make of the same files",
        description="Compares two preprocessing pipelines. Each is given as module:function, from a path to an array.",
    )
    pictures.add_argument("reference", metavar="REFERENCE", help="module:function from a path to an array")
    pictures.add_argument("candidate", metavar="CANDIDATE", help="module:function from a path to an array")
    pictures.add_argument("files", nargs="+", metavar="PATH", help="pictures, or one folder of them")
    pictures.add_argument("--limit", type=int, default=16, metavar="N", help="of a folder, so many (default 16)")
    pictures.add_argument("--tolerance", type=float, default=0.5, metavar="X", help="grey levels (default 0.5)")
    pictures.add_argument("--no-probes", action="store_true", help="add no files that are turned by EXIF or no square")
    pictures.set_defaults(handler=run_inputs)


def _add_inputs(command) -> None:
    command.add_argument(
        "--input",
        action="append",
        metavar="N,H,W,C",
        help="shape of an input, batch first, channels last; once for each, and each gets a picture of its own",
    )
    command.add_argument(
        "--inputs", metavar="FILE.npz", help="real data instead: the inputs of one batch by name, as numpy.savez writes"
    )
    command.add_argument(
        "--scale", type=float, default=1.0, help="inputs range from 0 to this (default 1; 255 for pixels)"
    )
    command.add_argument(
        "--names",
        nargs="+",
        metavar="RULE",
        help='PATTERN=REPLACEMENT rules for torch module paths, which may count: "layer{s}.{i}=conv{s+1}_block{i+1}"; '
        '"order" alone, or last, pairs by kind, shape and place',
    )
    command.add_argument("--seed", type=int, default=0)


def run_compare(arguments) -> int:
    """`python -m parity compare`."""
    import parity
    from parity.tracefile import is_trace

    for spec in (arguments.reference, arguments.candidate):
        _check_spec(spec)
    traced = any(is_trace(path) for path in (arguments.reference, arguments.candidate))
    inputs = None if traced and not (arguments.input or arguments.inputs) else _inputs(arguments)
    names = _names(arguments.names)
    with_tensorflow()
    reference, candidate = _model(arguments.reference), _model(arguments.candidate)
    report = parity.compare(
        reference,
        candidate,
        inputs,
        names=names,
        transfer=arguments.transfer,
        training=not arguments.no_training,
        strict=arguments.strict,
        ignore=arguments.ignore,
    )
    if report.transfer is not None:
        print(report.transfer)
    print(report)
    if arguments.explain:
        for finding in report.causes:
            print(f"\n{finding.name}" if finding.place is None else f"\n{finding.name}: {finding.place}")
            print(f"  {finding.says or 'no cure that was tried heals it'}")
    if arguments.out:
        print(report.write(arguments.out, command_line()))
    return exit_code(report)


def run_record(arguments) -> int:
    """`python -m parity record`."""
    import parity

    _check_spec(arguments.model)
    inputs, names = _inputs(arguments), _names(arguments.names)
    path = parity.record(
        _make(arguments.model),
        inputs,
        arguments.out,
        names=names,
        training=not arguments.no_training,
        statistics=arguments.statistics,
    )
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def run_verify(arguments) -> int:
    """`python -m parity verify`."""
    from parity.golden import verify

    report = verify(arguments.path, arguments.golden, arguments.tolerance)
    print(report)
    return exit_code(report)


def run_inputs(arguments) -> int:
    """`python -m parity inputs`."""
    from parity.images import find_images
    from parity.preprocessing import compare_inputs

    files = arguments.files
    if len(files) == 1 and Path(files[0]).is_dir():
        files = find_images(files[0])[: arguments.limit]
    pipelines = _function(arguments.reference), _function(arguments.candidate)
    report = compare_inputs(*pipelines, files, tolerance=arguments.tolerance, probe=not arguments.no_probes)
    print(report)
    return 0 if report.passed else 1


def exit_code(report) -> int:
    """0 if all is equal, 1 if a check failed, 2 if nothing or too little was compared."""
    return {"ok": 0, "FAIL": 1}.get(report.status, 2)


def with_tensorflow() -> None:
    """TensorFlow without its notices, where it is installed."""
    from parity.environment import import_tensorflow_quietly

    with contextlib.suppress(ImportError):
        import_tensorflow_quietly()


def _inputs(arguments):
    """What --input or --inputs say."""
    from parity.inputs import load

    if bool(arguments.input) == bool(arguments.inputs):
        raise ValueError(
            "Give shapes with --input or a file with --inputs. Received: " + ("both" if arguments.input else "neither")
        )
    return load(arguments.inputs) if arguments.inputs else _made(arguments.input, arguments.seed, arguments.scale)


def _names(names):
    """What --names says, as `compare` takes it."""
    if names == ["order"]:
        names = "order"
    elif names is not None:
        wrong = [
            rule for place, rule in enumerate(names) if "=" not in rule and (rule, place) != ("order", len(names) - 1)
        ]
        if wrong:
            raise ValueError(
                f'--names takes PATTERN=REPLACEMENT, and "order" alone or last. Received: {" ".join(wrong)}'
            )
        names = [tuple(rule.split("=", 1)) if "=" in rule else rule for rule in names]
    return names


def _check_spec(spec: str) -> None:
    """Refuses what is neither there nor of the form module:function."""
    if Path(spec).exists() or (":" in spec and not _names_file(spec)):
        return
    if _names_file(spec) or os.sep in spec:
        raise ValueError(f"No such file: {spec}")
    raise ValueError(f"Expected module:function. Received: {spec}, which is no file either")


def _names_file(spec: str) -> bool:
    return Path(spec).suffix in FILES


def _model(spec: str):
    """A path as it is, or what "module:function" makes."""
    return spec if Path(spec).exists() else _make(spec)


def command_line() -> str:
    """How this process was called, for the record."""
    return shlex.join(["python", "-m", "parity", *sys.argv[1:]])


def _made(shapes: list[str], seed: int, scale: float):
    """Inputs of these shapes, each from a seed of its own: pictures where they have three channels, else noise."""
    import numpy as np

    from parity import images

    inputs = []
    for place, text in enumerate(shapes):
        try:
            shape = tuple(int(n) for n in text.split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise ValueError(f"--input takes positive whole numbers such as 2,224,224,3. Received: {text}")
        if len(shape) == 4 and shape[3] == 3:
            array = images.structured_images(shape[0], shape[1:3], seed + place) / 255.0
        else:
            array = np.random.default_rng(seed + place).uniform(size=shape)
        inputs.append(np.float64(array) * scale)
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


def _make(spec: str):
    """What the function makes that "module:function" names."""
    function = _function(spec)
    return function()


def _function(spec: str):
    """What "module:function" names."""
    module, _, function = spec.partition(":")
    if not module or not function:
        raise ValueError(f"Expected module:function. Received: {spec}")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise ValueError(f"No module {module!r}; it must be importable from {os.getcwd()}") from error
    except AttributeError as error:
        if not hasattr(sys.modules.get(module), function):
            raise ValueError(f"Module {module!r} has no function {function!r}") from error
        raise
