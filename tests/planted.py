"""Faults of the kind that people make, planted in the product's code, and the fast test that catches each.

    python -m tests.planted               every fault of the table
    python -m tests.planted torch_ref     those of files whose path contains this

Each is one line, planted in a copy of the tree, where its test runs; before, all of these tests must pass there.
Exit code 1 if a fault is passed over.
"""

import importlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("keras_stoch", "torch_ref", "parity", "tests", "docs", "examples", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Fault:
    """One line that is wrong.

    Attributes:
        file: of the product.
        text: that occurs in it once.
        replacement: what stands there instead.
        test: below tests/, as pytest names it.
        slip: what was done, in words.
    """

    file: str
    text: str
    replacement: str
    test: str
    slip: str


KERAS, DATA, TRAINING = "keras_stoch", "keras_stoch/data", "keras_stoch/training"
SERVING, EVALUATION = "keras_stoch/serving", "keras_stoch/evaluation"

# fmt: off
FAULTS = (
    Fault(f"{KERAS}/windows.py", "spans = [h - m + 1 for", "spans = [h - m for",
          f"{KERAS}/test_stochastic_conv.py::test_draws_are_uniform_with_both_ends_and_independent",
          "the last position is never drawn"),
    Fault(f"{KERAS}/stochastic.py", "+ ops.arange(N)  # (F, N) or", "+ ops.arange(N)[::-1]  # (F, N) or",
          f"{KERAS}/test_stochastic_conv.py::test_every_form_is_the_definition", "a window's columns turned round"),
    Fault(f"{KERAS}/layers.py", "inputs.dtype) / (1.0 - self.rate)", "inputs.dtype)",
          f"{KERAS}/test_models.py::test_drop_masks_are_obeyed", "what a given mask keeps is not scaled"),
    Fault(f"{KERAS}/checkpoints.py", "tensor * np.float32(IMAGENET_STDDEV_RGB)",
          "tensor * np.sqrt(np.float32(IMAGENET_STDDEV_RGB))",
          f"{KERAS}/test_stochastic_models.py::test_imagenet_statistics_fold_into_the_stochastic_stem",
          "a variance scaled as a standard deviation"),
    Fault(f"{DATA}/augment.py", "centre = (size - 1) / 2", "centre = size / 2",
          f"{DATA}/test_augment.py::test_flips_and_quarter_turns_are_exact", "the centre of an image half a pixel off"),
    Fault(f"{DATA}/splits.py", '"validation", validation / (1 - test))', '"validation", validation)',
          f"{DATA}/test_splits.py::test_three_parts_without_folds", "a share of what is left, not of all"),
    Fault(f"{DATA}/sampling.py", "[rng.permutation(of_class) for", "[of_class for",
          f"{DATA}/test_balanced.py::test_epochs_and_seeds_differ", "a balanced draw in the order of the folder"),
    Fault(f"{DATA}/audit.py", "known = np.flatnonzero(images[column].notna())", "known = np.arange(len(images))",
          f"{DATA}/test_audit.py::test_groups_are_transitive", "images without a patient are one patient's"),
    Fault(f"{DATA}/rules.py", '"MEL" if melanoma else "BKL"', '"MEL" if not melanoma else "BKL"',
          f"{DATA}/test_labels.py::test_layouts_are_told_apart_by_content_and_joined", "a condition turned round"),
    Fault(f"{DATA}/labels.py", 'kind="stable", na_position="last")', 'kind="stable", na_position="first")',
          f"{DATA}/test_labels.py::test_own_labels_are_the_last_word_and_diagnoses_go_with_their_target",
          "a table of one's own gives way to an old year's"),
    Fault(f"{DATA}/near.py", "PARTS = 11 ", "PARTS = 10 ",
          f"{DATA}/test_near.py::test_pairs_that_differ_in_every_way_of_32_bits", "one part of a hash too few"),
    Fault(f"{DATA}/pipeline.py", "(place // self.batch_size >= start)", "(place // self.batch_size > start)",
          f"{DATA}/test_pipeline.py::test_workers_get_the_parts_of_one_batch", "an epoch without its first batch"),
    Fault(f"{DATA}/shards.py", "rng.permuted(dealt, axis=1)", "rng.permuted(dealt, axis=0)",
          f"{DATA}/test_shards.py::test_lanes_have_what_their_batches_take", "shards dealt among lanes, not within"),
    Fault(f"{TRAINING}/recipe.py", "epochs - since >= self.patience", "epochs - since > self.patience",
          f"{TRAINING}/test_recipes.py::test_patience_counts_epochs_since_the_best", "an epoch more than asked for"),
    Fault(f"{TRAINING}/optimizer.py", "+ recipe.label_smoothing / 2", "+ recipe.label_smoothing",
          f"{TRAINING}/test_fine_tune.py::test_losses_against_their_formula", "smoothed targets do not sum to one"),
    Fault(f"{TRAINING}/freezing.py", "layer.trainable = trainable and not frozen", "layer.trainable = not frozen",
          f"{TRAINING}/test_fine_tune.py::test_layers_that_were_frozen_stay_so", "all is thawed"),
    Fault(f"{TRAINING}/runs.py", '(row["epoch"], row["batch"]) < (epoch, batch)',
          '(row["epoch"], row["batch"]) <= (epoch, batch)',
          f"{TRAINING}/test_run_properties.py::test_it_goes_on_from_a_state_it_was_in_and_the_tables_agree",
          "the row of the batch that is repeated stays"),
    Fault(f"{TRAINING}/engine.py", "self.set_rate(self.rate_of(*now) * factor)", "self.set_rate(self.rate_of(*now))",
          f"{TRAINING}/test_own.py::test_a_schedule_by_step", "a callback's factor on the rate is forgotten"),
    Fault(f"{EVALUATION}/metrics.py", "(below - negative / 2)", "(below - negative)",
          f"{EVALUATION}/test_metrics.py::test_measures_are_scikit_learns", "ties count as errors"),
    Fault(f"{EVALUATION}/calibration.py", "(share + z**2 / (2 * count))", "(share + z**2 / count)",
          f"{EVALUATION}/test_calibration.py::test_wilson_interval_is_scipys", "a two forgotten"),
    Fault(f"{EVALUATION}/comparison.py", "- 2 * covariance[a, b]", "- covariance[a, b]",
          f"{EVALUATION}/test_comparison.py::test_delong_is_its_definition", "a two forgotten"),
    Fault(f"{EVALUATION}/external.py", "groups[1][pairs[:, 1]] + offset])", "groups[1][pairs[:, 1]]])",
          f"{EVALUATION}/test_external.py::test_pairing_narrows_the_interval",
          "groups of one side taken for those of the other"),
    Fault(f"{EVALUATION}/subgroups.py", "if float(value) < limit)", "if float(value) <= limit)",
          f"{EVALUATION}/test_subgroups.py::test_values_of_the_manifest", "an age of 30 is under 30"),
    Fault(f"{EVALUATION}/predictions.py", "axis=1) - logsumexp(log_expit(-logits), axis=1)", "axis=1)",
          f"{EVALUATION}/test_evaluation.py::test_mean_logit_is_that_of_the_mean_probability",
          "the logarithm of the mean probability for its logit"),
    Fault(f"{SERVING}/photographs.py", "(0, (3, 4, 7, 8))", "(0, (3, 4, 5, 8))",
          f"{SERVING}/test_photographs.py::test_photographs_are_turned_upright", "two orientations exchanged"),
    Fault("torch_ref/windows.py", "spans = [h - m + 1 for", "spans = [h - m for",
          "torch_ref/test_stochastic_conv.py::test_draws_reproduce_from_a_generator_and_reach_both_ends",
          "the last position is never drawn"),
    Fault("torch_ref/stochastic.py", "torch.arange(P, device=device) * stride[0]",
          "torch.arange(P, device=device) * stride[1]",
          "torch_ref/test_stochastic_conv.py::test_every_form_is_the_definition", "the stride of the other axis"),
    Fault("torch_ref/layers.py", "(1 - n % 2 if", "(n % 2 if",
          "torch_ref/test_models.py::test_padding_is_tensorflows_same", "odd sizes padded as even ones"),
    Fault("torch_ref/training/optimizer.py", 'torch.rsqrt(v + group["eps"])', '(v.sqrt() + group["eps"]) ** -1',
          "torch_ref/test_training.py::test_steps_follow_the_formula", "epsilon outside of the root"),
    Fault("torch_ref/data.py", "* [[360.0, 1.0 - 0.6]]", "* [[180.0, 1.0 - 0.6]]",
          f"{DATA}/test_pipeline.py::test_torch_gives_the_same_batches", "turned one way only"),
    Fault("torch_ref/training/freezing.py", "module.frozen = frozen", "module.frozen = False",
          "torch_ref/test_fine_tune.py::test_the_first_blocks_stay_and_then_thaw",
          "statistics of frozen layers go on moving"),
    Fault("parity/layout.py", "*array.shape[2:]), (0, 1), (-2, -1))", "*array.shape[2:]), (0, 1), (-1, -2))",
          "parity/test_transfer.py::test_each_kind_of_layer_computes_the_same_after_transfer",
          "channels and multiplier of a depthwise kernel exchanged"),
    Fault("parity/errors.py", "scale = max(norm, floor)", "scale = norm + floor",
          "parity/test_compare.py::test_relative_l2_by_hand", "a floor added where it is a least value"),
    Fault("parity/naming.py", r'rf"(?<!\d){found}(?!\d)"', r'rf"{found}"',
          "parity/strangers/test_diagnosis.py::test_rules_that_count", "a counter matches within a number"),
    Fault("parity/statistics.py", "candidate.var(ddof=1)", "candidate.var()",
          "parity/test_curves.py::test_equivalence_is_two_welch_tests", "a variance without its correction"),
    Fault("parity/curves.py", "epochs = min(lengths.values())", "epochs = max(lengths.values())",
          "parity/test_curves.py::test_reading_drops_duplicates_and_placeholders_and_cuts", "cut to the longest run"),
    Fault("parity/sketch.py", "-1.0, 1.0)", "1.0, 1.0)",
          "parity/traces/test_traces.py::test_distances_of_sketches_are_those_of_the_arrays", "sums without signs"),
    Fault("parity/resampling.py", "centres = (places + 0.5) * scale - 0.5", "centres = places * scale",
          "parity/test_preprocessing.py::test_cures_say_how", "half a pixel off"),
    Fault("parity/court/progress.py", "pace = gone * self.processes / done", "pace = gone / done",
          "parity/court/test_jobs.py::test_the_line_of_progress_tells_share_and_time_left",
          "the pace of one process taken for that of all"),
)
# fmt: on


def spoilt(fault: Fault, text: str) -> str:
    """The text of a file with the fault in it.

    Raises:
        ValueError: unless what it replaces is there once.
    """
    count = text.count(fault.text)
    if count != 1:
        raise ValueError(f"{fault.file}: {fault.text!r} must occur there once. Received: {count} times")
    return text.replace(fault.text, fault.replacement)


def outcome(folder: Path, tests) -> int:
    """What pytest ends with for these tests of a tree: 0 where all pass, 1 where one fails.

    They run in a process that parts from this one, which has imported the frameworks and not used them.
    """
    child = os.fork()
    if not child:
        code = 70
        try:
            code = _run(folder, tests)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(folder, tests) -> int:
    import pytest

    os.chdir(folder)
    with open(folder / "pytest.log", "w") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    ours = ("tests", "parity", "keras_stoch", "torch_ref")
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(part for part in sys.path if part and Path(part).resolve() != ROOT)]
    arguments = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    return int(pytest.main([*arguments, *(f"tests/{test}" for test in tests)]))


def main(words) -> int:
    """Plants the faults and says of each whether it was caught."""
    chosen = [fault for fault in FAULTS if all(word in fault.file for word in words)]
    if not chosen:
        print(f"No fault is in a file called so. Received: {' '.join(words)}", file=sys.stderr)
        return 2
    import tests.conftest  # noqa: F401  first: it sets what frameworks read when they are imported

    for name in ("keras", "torch", "pandas", "scipy.stats", "sklearn.metrics"):
        importlib.import_module(name)
    passed_over = 0
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).resolve() / "tree"
        for name in COPIED:
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
        if code := outcome(folder, list(dict.fromkeys(fault.test for fault in chosen))):
            print((folder / "pytest.log").read_text()[-3000:], f"Without faults pytest ends with {code}", sep="\n")
            return 2
        for fault in chosen:
            path = folder / fault.file
            before = path.read_text()
            path.write_text(spoilt(fault, before))
            code = outcome(folder, [fault.test])
            path.write_text(before)
            # Anything but failed tests, as an error of import, is no catch.
            passed_over += code != 1
            word = "caught" if code == 1 else f"MISSED (pytest ends with {code})"
            print(f"{word}  {fault.file}: {fault.slip}; {fault.test}", flush=True)
    print(f"{len(chosen) - passed_over} of {len(chosen)} faults are caught")
    return int(passed_over > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
