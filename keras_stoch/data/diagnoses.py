"""Diagnoses in the words of the ISIC archive and of ISIC 2024, as the classes of the challenges.

The archive's taxonomy has five levels: `diagnosis_1` is Benign, Malignant or Indeterminate, `diagnosis_2` a group,
`diagnosis_3` to `diagnosis_5` names; ISIC 2024 calls them `iddx_1` to `iddx_5`. Tables from before it have one column
`diagnosis`, and `benign_malignant`. The first level decides which classes are looked for: no name makes a benign lesion
malignant.
"""

LEVELS = (
    tuple(f"diagnosis_{level}" for level in range(1, 6)),
    tuple(f"iddx_{level}" for level in range(1, 6)),
    ("benign_malignant", None, "diagnosis"),
)
# Words of a name, class; the first that is met counts.
_NAMES = {
    "malignant": (
        ("melanoma", "MEL"),
        ("basal cell carcinoma", "BCC"),
        ("squamous cell carcinoma", "SCC"),
        ("keratoacanthoma", "SCC"),
    ),
    "benign": (
        ("actinic keratosis", "BEN_OTH"),
        ("nevus", "NV"),
        ("keratosis", "BKL"),
        ("lentigo", "BKL"),
        ("dermatofibroma", "DF"),
        ("angioma", "VASC"),
        ("angiokeratoma", "VASC"),
        ("vascular", "VASC"),
        ("pyogenic granuloma", "VASC"),
        ("hemorrhage", "VASC"),
    ),
    "indeterminate": (("actinic keratosis", "AK"),),
}
_GROUPS = {
    "malignant": (("melanoma", "MEL"),),
    "benign": (("benign melanocytic", "NV"), ("vascular", "VASC"), ("inflammatory", "INF")),
    "indeterminate": (),
}
_OTHERS = {"malignant": "MAL_OTH", "benign": "BEN_OTH", "indeterminate": None}


def levels_of(columns) -> tuple | None:
    """The columns of a table that hold its diagnosis, from the first level on; None if it has none."""
    return next((levels for levels in LEVELS if levels[0] in columns), None)


def classify(first: str, group: str = "", *names: str) -> str | None:
    """The class of a diagnosis: MEL, BCC, SCC or MAL_OTH of a malignant one; NV, BKL, DF, VASC, INF or BEN_OTH of a
    benign one; AK of an indeterminate one.

    Args:
        first: "Benign", "Malignant", "Indeterminate", the archive's "indeterminate/benign" and the like, or nothing.
        group: of the second level.
        names: of the levels from the third on.

    Returns:
        None where it is not decided: nothing is said, or an indeterminate lesion that is no actinic keratosis.

    Raises:
        ValueError: for another word as first level.
    """
    word = first.strip().casefold()
    if not word:
        return None
    word = "indeterminate" if word.startswith("indeterminate/") else word
    if word not in _OTHERS:
        raise ValueError(f"must be Benign, Malignant or Indeterminate. Received: {first!r}")
    named, grouped = " ".join(names).casefold(), group.casefold()
    for text, known in ((named, _NAMES[word]), (grouped, _GROUPS[word])):
        for part, name in known:
            if part in text:
                return name
    return _OTHERS[word]
