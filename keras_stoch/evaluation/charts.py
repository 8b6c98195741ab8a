"""The charts of an evaluation: ROC, precision-recall, reliability, histogram of scores, errors by spread."""

import io

import numpy as np

INK, BENIGN, MALIGNANT, SOFT = "#1c2733", "#3b78b5", "#b3261e", "#9aa5b1"


def roc_chart(evaluation):
    """The ROC curve with the sensitivities it tells, and the stored threshold."""
    figure, ax = _square()
    curve = evaluation.curve
    ax.plot(curve["false_positive_rate"], curve["true_positive_rate"], lw=2, color=BENIGN)
    ax.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    for specificity, sensitivity in evaluation.sensitivity.items():
        ax.plot(1 - specificity, sensitivity, "o", color=INK, ms=4)
        ax.annotate(
            f"{sensitivity:.0%} at {specificity:.0%}", (1 - specificity, sensitivity), (7, -9),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    if "sensitivity" in evaluation.measures.index:
        sensitivity, specificity = (evaluation.measures.loc[n, "value"] for n in ("sensitivity", "specificity"))
        ax.plot(1 - specificity, sensitivity, "*", color=MALIGNANT, ms=13, label="stored threshold")
        ax.legend(loc="lower right", fontsize=8)
    low, high = evaluation.interval
    ax.set_title(f"ROC AUC {evaluation.auc:.4f} ({low:.4f} to {high:.4f})", fontsize=10)
    ax.set_xlabel("1 - specificity")
    ax.set_ylabel("sensitivity")
    return figure


def precision_recall_chart(evaluation):
    """Precision over sensitivity, and the share of malignant images, which chance would reach."""
    from sklearn.metrics import precision_recall_curve

    figure, ax = _square()
    targets = evaluation.images["target"]
    precision, recall, _ = precision_recall_curve(targets, evaluation.images["logit"])
    ax.plot(recall, precision, drawstyle="steps-post", lw=2, color=BENIGN)
    ax.axhline(targets.mean(), color=SOFT, lw=1, ls="--")
    row = evaluation.measures.loc["average_precision"]
    ax.set_title(f"average precision {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})", fontsize=10)
    ax.set_xlabel("sensitivity (recall)")
    ax.set_ylabel("positive predictive value (precision)")
    return figure


def reliability_chart(evaluation):
    """Share of malignant images over mean probability, for both binnings, with 95% Wilson intervals."""
    figure, ax = _square()
    ax.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    for (binning, table), colour, marker in zip(
        evaluation.reliability.groupby("binning"), (MALIGNANT, BENIGN), ("s", "o"), strict=False
    ):
        share = table["malignant_share"]
        # An interval need not hold the share to the last digit where that is 0 or 1.
        errors = np.maximum([share - table["low"], table["high"] - share], 0)
        ax.errorbar(
            table["mean_probability"],
            share,
            yerr=errors,
            fmt=marker,
            ms=4,
            lw=1,
            color=colour,
            label=binning,
            alpha=0.8,
        )
    ax.legend(loc="upper left", fontsize=8, title="bins", title_fontsize=8)
    which = "calibrated" if evaluation.calibration is not None else "uncalibrated"
    error = evaluation.measures.loc["ece", "value"]
    ax.set_title(f"reliability, {which}; error {error:.4f} (equal width)", fontsize=10)
    ax.set_xlabel("mean probability of the bin")
    ax.set_ylabel("share of malignant images")
    return figure


def histogram_chart(evaluation):
    """How many images of each class have which probability, on a logarithmic scale."""
    figure, ax = _square(equal=False)
    column = "probability" if evaluation.calibration is None else "calibrated"
    images = evaluation.images
    edges = np.linspace(0, 1, 26)
    for target, name, colour in ((0, "benign", BENIGN), (1, "malignant", MALIGNANT)):
        values = images.loc[images["target"] == target, column]
        ax.hist(values, edges, color=colour, alpha=0.55, label=f"{name} ({len(values)})")
    if evaluation.calibration is not None and evaluation.calibration.threshold is not None:
        ax.axvline(evaluation.calibration.threshold, color=INK, lw=1.2, ls=":", label="stored threshold")
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    ax.legend(fontsize=8)
    ax.set_title("images by probability", fontsize=10)
    ax.set_xlabel(f"probability{', calibrated' if column == 'calibrated' else ''}")
    ax.set_ylabel("images")
    return figure


def uncertainty_chart(evaluation):
    """Share of wrong images by fifths of the spread over draws."""
    from keras_stoch.evaluation.calibration import wilson

    figure, ax = _square(equal=False)
    fifths = evaluation.uncertainty["fifths"]
    share = np.array([part["errors"] / part["images"] for part in fifths])
    low, high = wilson(share, [part["images"] for part in fifths])
    names = [f"{part['mean_spread']:.2g}" for part in fifths]
    ax.bar(range(len(fifths)), share, color=BENIGN, alpha=0.7)
    errors = np.maximum([share - low, high - share], 0)
    ax.errorbar(range(len(fifths)), share, yerr=errors, fmt="none", color=INK, lw=1)
    ax.set_xticks(range(len(fifths)), names)
    ax.set_title("wrong images, by their spread over draws", fontsize=10)
    ax.set_xlabel("mean spread of each fifth")
    ax.set_ylabel("share of wrong images")
    return figure


def to_svg(figure) -> str:
    """A figure as an element of a page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keras-stoch"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _square(equal=True):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    ax = figure.subplots()
    if equal:
        ax.set_aspect("equal")
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
    ax.grid(alpha=0.2)
    return figure, ax
