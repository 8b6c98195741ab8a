"""How fast training amplifies rounding: one implementation against itself, its weights moved by one rounding.

    python benchmarks/rounding_growth.py [--models b0 b4] [--rates 1e-3 1e-4 1e-5]

No port can stay closer to its original than the original to itself: this is what a tolerance for training in lockstep
must leave room for. 20 steps in float64 at 64 pixels, batches of four, as on the ladder's rung.
"""

import argparse
import dataclasses

import numpy as np

from parity.court import exhibits, lockstep


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["b0", "b4"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 1e-4, 1e-5])
    options = parser.parse_args()
    print("| model | learning rate | difference of losses at step 2 | 5 | 10 | 20 |")
    print("|---|---:|---:|---:|---:|---:|")
    for model in options.models:
        ours = exhibits.build("keras_stoch", model, 64, "float64")
        course = lockstep.make_course(ours, None, 64, model=model)
        subject = exhibits.build("torch_ref", model, 64, "float64")
        arrays = exhibits.randomise(subject, course.take(range(course.batch_size))[0], 0)
        rng = np.random.default_rng(0)
        moved = {name: array * (1 + 2.0**-52 * rng.choice([-1, 0, 1], array.shape)) for name, array in arrays.items()}
        for rate in options.rates:
            taken = dataclasses.replace(course, changes=course.changes | {"learning_rate": rate})
            losses = []
            for weights in (arrays, moved):
                losses.append(lockstep.follow(exhibits.copied(subject), weights, taken).losses)
            apart = np.maximum.accumulate(np.abs(losses[1] - losses[0]))
            cells = " | ".join(f"{apart[step - 1]:.0e}" for step in (2, 5, 10, 20))
            print(f"| {model} | {rate:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
