"""The layouts of label files: which columns the official ones of 2016 to 2020 have, and what is in them."""

from dataclasses import dataclass, field

# What columns of classes are called. HAM10000 writes them in small letters, in its column dx.
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
METADATA = ("patient_id", "lesion_id", "sex", "age", "site", "diagnosis")


@dataclass(frozen=True)
class Layout:
    """One official layout: the columns it must have, those it may have, and what is in them."""

    name: str
    year: int | None
    required: tuple[str, ...]
    image: str = "image"
    kind: str = "labels"  # or "metadata", "duplicates", or "either": labels of images that no other file labels
    optional: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)  # column of the file -> column of the table


_PEOPLE_2020 = {
    "patient_id": "patient_id",
    "lesion_id": "lesion_id",
    "sex": "sex",
    "age_approx": "age",
    "anatom_site_general_challenge": "site",
    "anatom_site_general": "site",
    "patient": "patient_id",
}
LAYOUTS = (
    Layout("2017 ground truth", 2017, ("image_id", "melanoma", "seborrheic_keratosis"), "image_id"),
    Layout(
        *("2017 metadata", 2017, ("image_id", "age_approximate", "sex"), "image_id", "metadata"),
        renamed={"age_approximate": "age", "sex": "sex"},
    ),
    Layout("2018 ground truth", 2018, ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")),
    Layout(
        *("2018 lesion groupings", 2018, ("image", "lesion_id", "diagnosis_confirm_type"), "image", "metadata"),
        renamed={"lesion_id": "lesion_id"},
    ),
    Layout(
        *("HAM10000 metadata", 2018, ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")),
        *("image_id", "either", ("dataset",)),
        renamed={"lesion_id": "lesion_id", "age": "age", "sex": "sex", "localization": "site"},
    ),
    Layout(
        *("2019 ground truth", 2019, ("image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")),
        optional=("score_weight", "validation_weight"),
    ),
    Layout(
        *("2019 metadata", 2019, ("image", "age_approx", "anatom_site_general", "sex"), "image", "metadata"),
        optional=("lesion_id",),
        renamed=_PEOPLE_2020,
    ),
    Layout(
        "2020 ground truth",
        2020,
        (
            *("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"),
            *("diagnosis", "benign_malignant", "target"),
        ),
        "image_name",
        optional=("lesion_id", "tfrecord", "width", "height"),
        renamed=_PEOPLE_2020,
    ),
    Layout(
        *("2020 test metadata", 2020, ("image", "patient", "age_approx", "anatom_site_general", "sex")),
        *("image", "metadata"),
        renamed=_PEOPLE_2020,
    ),
    Layout(
        "2020 test metadata",
        2020,
        ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"),
        *("image_name", "metadata"),
        renamed=_PEOPLE_2020,
    ),
    Layout("2020 duplicates", 2020, ("image_name_1", "image_name_2"), "image_name_1", "duplicates"),
    # Not an official one: the simplest table that a person with own photographs would write.
    Layout(
        *("plain", None, ("image", "target")),
        optional=("patient_id", "lesion_id", "diagnosis", "sex", "age", "site"),
        renamed={name: name for name in METADATA},
    ),
)
LAYOUT_2016 = Layout("2016 ground truth", 2016, ("image", "label"))
