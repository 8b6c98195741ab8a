"""How far runs of one package differ, and how often the statistics rung leaves a correct port undecided.

    python benchmarks/study.py [--runs 16] [--early-runs 40] [--seed 100000]

Trains pilot runs of the official model and of torch_ref, on images and from seeds that `make parity` does not use, and
prints the standard deviation of each statistic beside its margin. Then as many runs as the rung has are drawn from the
pilot's, once as a reference and once as a port that is its equal (each package's runs are moved to one mean first), of
one package or of both: the share of such pairs in which a statistic is not shown to be equivalent.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from parity.court import jobs, ladder, study
from parity.court.jobs import Job
from parity.statistics import equivalence_test

DRAWS = 4000
PACKAGES = ("official", "torch_ref")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--early-runs", type=int, default=40, help="of the first steps alone, beside those")
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--out", default="build/benchmarks/study.json")
    options = parser.parse_args()
    rung = study.Plan()
    plan = dataclasses.replace(rung, runs=options.runs, early_runs=options.early_runs, seed=options.seed)
    work = [Job(ladder.train_sample, (package, plan), package, 1.0, package) for package in PACKAGES]
    samples = {sample.name: sample for _, sample in jobs.run(work, jobs.default_processes()) if sample is not None}
    print("| statistic | " + " | ".join(f"{package}: mean | sd" for package in PACKAGES) + " | margin | undecided |")
    print("|---|" + "---:|" * (2 * len(PACKAGES) + 2))
    found = {package: samples[package].summaries() for package in PACKAGES}
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    told = {package: {name: values.tolist() for name, values in of.items()} for package, of in found.items()}
    Path(options.out).write_text(json.dumps(told | {"plan": dataclasses.asdict(plan)}) + "\n")
    undecided = shares(found, rung, np.random.default_rng(options.seed))
    for name, margin in study.MARGINS.items():
        cells = [f"{found[p][name].mean():.3f} | {found[p][name].std(ddof=1):.4f}" for p in PACKAGES]
        print(f"| {name} | {' | '.join(cells)} | {margin:.3f} | {undecided[name]:.1%} |")
    print(f"\nany of them undecided: {undecided['any']:.1%}")
    print("seconds: " + ", ".join(f"{package} {samples[package].seconds:.0f}" for package in PACKAGES))


def shares(found: dict, rung: study.Plan, rng) -> dict[str, float]:
    """Share of draws in which a statistic is not equivalent, by name, and "any"."""
    pools = [{name: values - values.mean() for name, values in of.items()} for of in found.values()]
    total = {name: 0 for name in study.MARGINS} | {"any": 0}
    for _ in range(DRAWS):
        first, second = (pools[n] for n in rng.integers(len(pools), size=2))
        whole = [rng.integers(len(pool["best_auc"]), size=rung.runs) for pool in (first, second)]
        early = [rng.integers(len(p["early_loss"]), size=rung.runs + rung.early_runs) for p in (first, second)]
        failed = False
        for name, margin in study.MARGINS.items():
            a, b = (p[name][c] for p, c in zip((first, second), early if name == "early_loss" else whole, strict=True))
            undecided = equivalence_test(a, b, margin) >= study.ALPHA
            total[name] += undecided
            failed |= undecided
        total["any"] += failed
    return {name: count / DRAWS for name, count in total.items()}


if __name__ == "__main__":
    main()
