"""The court's commands: `python -m parity run | mutations | long | claims`."""

import sys
import time
from dataclasses import asdict
from pathlib import Path

from parity import images

# All else is imported by the commands that need it, so that --help does not wait for three frameworks.
SEEDS = 20  # correct ports


def add_arguments(commands) -> None:
    """Adds the commands to a parser's sub-parsers; each sets `handler`."""
    run = commands.add_parser("run", help="compare official Keras, keras_stoch and torch_ref; write a report")
    run.add_argument("--models", nargs="+", metavar="NAME", help="default: all")
    run.add_argument("--checks", nargs="+", metavar="NAME", help="rungs of the ladder; default: all")
    run.add_argument("--images", metavar="DIR", help="folder of photographs; default: structured pictures")
    run.add_argument("--seed", type=int, default=0, help="of weights and images (default 0)")
    run.add_argument("--out", default="build/parity", metavar="DIR", help="default: build/parity")
    run.add_argument("--jobs", type=int, metavar="N", help="processes (default: 2, if there are two cores)")
    run.add_argument("--full", action="store_true", help="train at the paper's size; for a GPU")
    run.add_argument("--no-mutations", action="store_true", help="try neither planted faults nor correct ports")
    run.set_defaults(handler=run_ladder)

    mutate = commands.add_parser("mutations", help="break ports on purpose and see each caught")
    mutate.add_argument("--names", nargs="+", metavar="NAME", help="default: all")
    mutate.add_argument("--jobs", type=int, metavar="N", help="processes (default: 2, if there are two cores)")
    mutate.add_argument("--seeds", type=int, default=SEEDS, help="correct ports that must pass (default 20)")
    mutate.add_argument("--images", metavar="DIR", help="folder of photographs; default: structured pictures")
    mutate.set_defaults(handler=run_mutations)

    long = commands.add_parser("long", help="train 20 runs of each package to the end; a record for `curves`")
    long.add_argument("--out", default="build/parity-long", metavar="DIR", help="of the runs; goes on where it was")
    long.add_argument("--record", metavar="DIR", help="of the record (default: OUT/record)")
    long.add_argument("--jobs", type=int, metavar="N", help="processes (default: 2, if there are two cores)")
    long.set_defaults(handler=run_long)

    paper = commands.add_parser("claims", help="put the paper's claims to its published curves")
    paper.add_argument("published", metavar="FOLDER", help="folders b0, b4, split-b0, ... of per-epoch CSV files")
    paper.add_argument("--out", default="build/paper-claims.md", metavar="FILE", help="page to write")
    paper.set_defaults(handler=run_claims)


def run_ladder(arguments) -> int:
    """`python -m parity run`."""
    from parity.court import report, session, trials
    from parity.court.cases import Options
    from parity.court.progress import Progress

    given = {name: tuple(v) for name in ("models", "checks") if (v := getattr(arguments, name))}
    look = bool(given) and "checks" not in given
    options = Options(**given, images=arguments.images, seed=arguments.seed, full=arguments.full, look=look)
    paths = options.paths()
    # One GPU is not shared by two processes.
    processes = _processes(arguments, 1 if arguments.full else None)
    faults = not arguments.no_mutations and not given
    start, progress = time.perf_counter(), Progress()
    terminal = report.Terminal(progress.write)
    if look:
        progress.write(options.left_out)
    findings = session.hold(
        options,
        [m.name for m in trials.chosen()] if faults else [],
        SEEDS if faults else 0,
        processes,
        terminal.tell,
        progress,
        arguments.images,
    )
    (thumbnails,) = images.make_batches(paths, 8, (96, 96), [options.seed])
    seconds = time.perf_counter() - start
    page = report.write(findings, arguments.out, asdict(options) | {"left_out": options.left_out}, seconds, thumbnails)
    print(f"\n{_summary(findings)}, in {seconds:.0f} s. Report: {page}")
    if not findings.complete:
        print(f"interrupted; the report is incomplete. Not done: {', '.join(findings.unfinished)}", file=sys.stderr)
        return 130
    if not findings.rows or all(row.value is None for row in findings.rows):
        print("error: nothing could be compared", file=sys.stderr)
        return 2
    return 0 if report.all_well(findings) else 1


def run_mutations(arguments) -> int:
    """`python -m parity mutations`."""
    from parity.court import report, session, trials
    from parity.court.progress import Progress

    names = [m.name for m in trials.chosen(arguments.names)]
    if arguments.images:
        images.find_images(arguments.images)
    progress = Progress()
    terminal = report.Terminal(progress.write)
    processes = _processes(arguments)
    findings = session.hold(None, names, arguments.seeds, processes, terminal.tell, progress, arguments.images)
    print(f"\n{_summary(findings)}.")
    if not findings.complete:
        print(f"interrupted. Not done: {', '.join(findings.unfinished)}", file=sys.stderr)
        return 130
    return 0 if report.all_well(findings) else 1


def run_long(arguments) -> int:
    """`python -m parity long`."""
    from parity.court import long_runs
    from parity.court.progress import Progress

    out = Path(arguments.out)
    try:
        sets = long_runs.train(out, processes=_processes(arguments), progress=Progress())
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with the runs of {out}", file=sys.stderr)
        return 130
    reports = long_runs.write(sets, arguments.record or out / "record")
    print("\n\n".join(map(str, reports)))
    return 0 if all(report.equivalent for report in reports) else 1


def _processes(arguments, otherwise: int | None = None) -> int:
    """How many were asked for, or `otherwise`, or as many as the machine bears.

    Raises:
        ValueError: for less than one.
    """
    from parity.court import jobs

    if arguments.jobs is None:
        return otherwise or jobs.default_processes()
    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1. Received: {arguments.jobs}")
    return arguments.jobs


def _summary(findings) -> str:
    told = []
    if findings.rows:
        told.append(f"{sum(row.passed for row in findings.rows)} of {len(findings.rows)} checks passed")
    if findings.outcomes:
        told.append(f"{sum(o.caught for o in findings.outcomes)} of {len(findings.outcomes)} planted faults caught")
        told.append(f"the cause of {sum(o.explained for o in findings.outcomes)} named")
    if findings.acquittals:
        false = sum(bool(a.failed) for a in findings.acquittals)
        told.append(f"{false} false alarms in {len(findings.acquittals)} correct ports")
    return ", ".join(told) or "nothing was compared"


def run_claims(arguments) -> int:
    """`python -m parity claims`."""
    from parity.court import claims

    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(claims.document(arguments.published, out.parent / "figures"))
    print(out)
    return 0
