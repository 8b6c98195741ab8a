"""`parity.record`: all that a comparison asks of a model, asked beforehand and kept in a file."""

import contextlib
from pathlib import Path

from parity.adapters import adapt
from parity.adapters.base import Adapter
from parity.environment import versions
from parity.graph import moves_only
from parity.inputs import prepare
from parity.naming import Rules
from parity.precision import steady_training
from parity.promotion import copy_in_float64, grain, rounding
from parity.rungs import determinism
from parity.scope import words
from parity.trace import Trace, is_output, map_inputs, scaled
from parity.tracefile import Writer, inputs_text


def record(
    model, inputs, path, *, names: Rules = None, training: bool = True, float64: bool = True, statistics: bool = False
) -> Path:
    """Records what a model does with some inputs, for a comparison on another machine, or without its framework.

    The file holds inputs, outputs, every intermediate and operation, weights, gradients, moving averages, settings and
    versions, of the model and of its float64 copy. `parity.compare` takes its path for a model; the other side is then
    fed the recorded inputs. Comparing needs neither this model's code nor its framework.

    Args:
        model: a `torch.nn.Module` or a built Keras model; left as it was.
        inputs: as `parity.compare` takes them, channels last.
        path: of the file to write, "reference.npz".
        names: rules for the names of layers, see `parity.compare`; they can be given when comparing as well.
        training: whether to record training mode and gradients too.
        float64: whether to record what a float64 copy does too, in which a fault can't hide behind rounding.
        statistics: keep sketches of intermediates, at most 256 numbers each, instead of values: the file is of the size
            of weights and inputs. Operations and single layers can't be compared with it, and causes not be found.

    Returns:
        The path.

    Raises:
        TypeError: if the model is neither Keras nor torch.
        ValueError: if the inputs are none that anything could be compared on, or if the model gives another answer
            every time.
    """
    adapter = adapt(model, names=names)
    if adapter.recorded or adapter.opaque:
        raise ValueError(f"A model is recorded, and no file. Received: {adapter.name}")
    batches, notes = prepare(inputs, adapter, adapter)
    writer = Writer(statistics)
    with adapter.as_found():
        apart, layer, own = determinism.look(adapter, batches[0], training=False)
        if not apart <= determinism.tolerance(adapter):
            raise ValueError(f"{adapter.name} {determinism.explain(apart, layer)}")
        unsteady, trained = steady_training(adapter, batches[0]) if training else (None, None)
        document = {
            "model": adapter.name,
            "framework": adapter.framework,
            "versions": versions(),
            "inputs": [inputs_text(batch, writer.array) for batch in batches],
            "input_specs": _specs(adapter),
            "notes": notes,
            "unsteady": unsteady,
            "statistics": statistics,
            "layers": _layers(adapter),
            "kinds": _kinds(adapter),
            "weights": _weights(adapter, writer),
            "runs": {"own": _run(adapter, batches, writer, training and not unsteady, trained)},
        }
        if float64:
            copied = copy_in_float64(adapter, batches[0], own, trained)
            if copied.adapter is None:
                document["no_float64"] = copied.reason
            else:
                # A copy's own weights are the model's, in float64.
                run = _run(copied.adapter, batches, writer, training and not unsteady, None)
                run["measured"] = {
                    "grain": grain(copied.adapter, batches[0]),
                    "rounding": rounding(copied.adapter, batches[0]),
                }
                document["runs"]["float64"] = run
    return writer.write(path, document)


def _specs(adapter: Adapter):
    specs = adapter.input_specs()
    return specs and [list(spec) for spec in specs]


def _layers(adapter: Adapter) -> list[dict]:
    found, told = [], adapter.settings()
    names = {id(layer): name for name, layer in adapter.layers().items()}
    for path, layer in adapter.walk():
        made = ""
        with contextlib.suppress(Exception):  # a stranger's layer may have a config that can't be told
            made = words(layer, adapter.framework)
        parts = getattr(layer, "children", None)
        found.append({
            "path": path,
            "kind": adapter.kind_of(layer),
            "holds": adapter.holds(layer),
            "parts": bool(parts and next(iter(parts()), None) is not None),
            "made": made,
            "settings": told.get(names[id(layer)], {}),
        })  # fmt: skip
    return found


def _places(adapter: Adapter) -> dict[str, int]:
    """Canonical name of a layer to its number in the order of `walk`."""
    order = {id(layer): place for place, (_, layer) in enumerate(adapter.walk())}
    return {name: order[id(layer)] for name, layer in adapter.layers().items()}


def _split(holder: str, places: dict[str, int]) -> dict:
    """What a canonical name of a weight's holder says: the layer's number and the part of it."""
    if holder in places:
        return {"layer": places[holder] if holder else None, "part": ""}
    found = max((name for name in places if name and holder.startswith(f"{name}_")), key=len, default=None)
    if found is None:
        return {"layer": None, "part": holder}
    return {"layer": places[found], "part": holder[len(found) + 1 :]}


def _kinds(adapter: Adapter) -> list[dict]:
    places = _places(adapter)
    return [{**_split(name, places), "kind": kind} for name, kind in adapter.kinds().items()]


def _weights(adapter: Adapter, writer: Writer) -> list[dict]:
    places, found = _places(adapter), []
    for tied, weights in ((False, adapter.weights()), (True, adapter.tied())):
        for name, weight in weights.items():
            holder, _, short = name.rpartition("/")
            found.append({
                **_split(holder, places),
                "name": name,
                "variable": short,
                "native": weight.native,
                "trainable": weight.trainable,
                "exact": weight.exact,
                "tied": tied,
                "array": writer.array(weight.array),
            })  # fmt: skip
    return found


def _run(adapter: Adapter, batches, writer: Writer, training: bool, trained) -> dict:
    """What a model did: outputs by kind of pass, calls of layers, operations, training."""
    places = _places(adapter)
    trace = Trace(adapter, batches, strict=False)
    outputs = {"inference 0": _outputs(trace.calls, writer)}
    outputs["inference wide"] = _attempt(lambda: _refer(adapter.outputs(map_inputs(scaled, batches[0])), writer.array))
    for number, batch in enumerate(batches[1:], start=1):
        outputs[f"inference {number}"] = _refer(adapter.outputs(batch), writer.array)
    if trained is not None:
        outputs["training 0"] = _refer(trained, writer.array)
    run = {
        "dtype": adapter.dtype,
        "outputs": outputs,
        "calls": [_call(*key, call, writer) for *key, call in _calls(trace, places)],
        "graph": None if writer.statistics else _graph(adapter, batches[0], writer, places),
    }
    if training:
        run["passes"] = _passes(trace, writer, places)
    return run


def _calls(trace: Trace, places):
    for name, call in trace.calls.items():
        if not call.final:
            layer, again = _which(name, places)
            if layer is not None:  # a group of layers is no layer
                yield layer, again, call


def _which(name: str, places: dict[str, int]) -> tuple[int | None, int]:
    """(number of the layer, the how manieth call of it) of a tensor's name."""
    if name in places:
        return places[name], 1
    layer, _, again = name.rpartition("#")
    if layer in places:
        return places[layer], int(again)
    return places.get(name.removesuffix(" layer")), 1


def _call(layer: int, again: int, call, writer: Writer) -> dict:
    wide = None
    if call.replay is not None and any(x.dtype.kind == "f" for x in call.inputs) and not writer.statistics:
        wide = _attempt(lambda: writer.array(call.replay([scaled(x, inside=True) for x in call.inputs])))
    return {
        "layer": layer,
        "again": again,
        "inputs": None if writer.statistics else [writer.array(x) for x in call.inputs],
        "output": writer.tensor(call.output),
        "wide": wide,
    }


def _attempt(run):
    """What a function returns, or what it says in failing."""
    try:
        return run()
    except Exception as error:  # some operation refuses such numbers
        text = str(error).strip()
        return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]


def _outputs(calls, writer: Writer) -> dict:
    return {name: writer.array(call.output) for name, call in calls.items() if call.final}


def _refer(arrays: dict, keep) -> dict:
    return {name: keep(array) for name, array in arrays.items()}


def _graph(adapter: Adapter, inputs, writer: Writer, places) -> dict | None:
    try:
        graph = adapter.graph(inputs)
    except Exception:  # a stranger's operation may refuse to be recorded
        return None
    return {
        "framework": graph.framework,
        "sources": list(graph.sources),
        "outputs": graph.outputs,
        "values": [writer.array(value) for value in graph.values],
        "nodes": [
            [places.get(n.layer) if n.layer else None, n.title, n.source, n.inputs, n.outputs, moves_only(graph, n)]
            for n in graph.nodes
        ],
    }


def _passes(trace: Trace, writer: Writer, places) -> dict:
    weights = {name: place for place, name in enumerate(trace.adapter.weights())}

    def entries(arrays, keep):
        found = []
        for name, array in arrays.items():
            if name in weights:
                found.append({"of": ["weight", weights[name]], "tensor": writer.array(array)})
            elif is_output(name.partition(" of step ")[0]):
                found.append({"of": ["output", name], "tensor": writer.array(array)})
            else:
                layer, again = _which(name, places)
                if layer is not None:
                    found.append({"of": ["layer", layer, again], "tensor": keep(array)})
        return found

    training = entries(trace.training, writer.tensor)
    try:
        gradients = entries(trace.gradients, writer.array)
    except Exception as error:  # some operation has no gradient
        gradients = f"{type(error).__name__}: {error}"[:200]
    return {
        "training": training,
        "gradients": gradients,
        "biased": entries(dict(trace.biased), writer.array),
    }
