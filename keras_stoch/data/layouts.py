"""The layouts of label files: which columns those of the challenges and of the archive have, and what is in them."""

from dataclasses import dataclass, field

# What columns of classes are called. HAM10000 writes them in small letters, in its column dx.
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "AK", "BKL", "DF", "VASC", "SCC", "UNK", "SCCKA", "MAL_OTH", "BEN_OTH", "INF")
CLASSES_MILK = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")
METADATA = ("patient_id", "lesion_id", "sex", "age", "site", "diagnosis")


@dataclass(frozen=True)
class Layout:
    """One layout: the columns it must have, those it may have, and what is in them.

    Attributes:
        name: in words.
        year: of the challenge; None for tables of no year, which are later than all.
        required, optional: columns.
        image: column of the image's name.
        kind: "labels", "metadata", "duplicates", "lesions" (labels by lesion, whose images a table of metadata names),
            or "either": labels of images that no other file labels.
        renamed: column of the file -> column of the table.
        open: whether there may be any columns beside: the archive adds some every year.
        source: what a rule for it alone is given under.
    """

    name: str
    year: int | None
    required: tuple[str, ...]
    image: str = "image"
    kind: str = "labels"
    optional: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    open: bool = False
    source: str = ""

    def fits(self, header) -> bool:
        """Whether a table with these columns is of this layout."""
        known = {*self.required, *self.optional}
        return set(self.required) <= set(header) and (self.open or set(header) <= known)


_PEOPLE_2020 = {
    "patient_id": "patient_id",
    "lesion_id": "lesion_id",
    "sex": "sex",
    "age_approx": "age",
    "anatom_site_general_challenge": "site",
    "anatom_site_general": "site",
    "patient": "patient_id",
}
_ARCHIVE = {
    "patient_id": "patient_id",
    "lesion_id": "lesion_id",
    "sex": "sex",
    "age_approx": "age",
    "anatom_site_1": "site",
    "anatom_site_general": "site",
    "site": "site",
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
        *("HAM10000 metadata", 2018, ("image_id", "dx"), "image_id", "either"),
        optional=("lesion_id", "dx_type", "age", "sex", "localization", "dataset"),
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
    Layout("2024 ground truth", 2024, ("isic_id", "malignant"), "isic_id"),
    Layout(*("2024 metadata", 2024, ("isic_id", "target"), "isic_id"), renamed=_ARCHIVE, open=True),
    Layout(*("2024 supplement", 2024, ("isic_id", "iddx_1"), "isic_id", "either"), renamed=_ARCHIVE, open=True),
    Layout("MILK10k ground truth", 2025, ("lesion_id", *CLASSES_MILK), "lesion_id", "lesions", source="MILK10k"),
    Layout(
        *("archive table", None, ("isic_id", "diagnosis_1"), "isic_id", "either"),
        renamed=_ARCHIVE,
        open=True,
        source="archive",
    ),
    Layout(
        *("archive table, before 2024", None, ("isic_id", "benign_malignant"), "isic_id", "either"),
        renamed=_ARCHIVE,
        open=True,
        source="archive",
    ),
    Layout(
        *("archive metadata", None, ("isic_id", "copyright_license"), "isic_id", "metadata"),
        renamed=_ARCHIVE,
        open=True,
        source="archive",
    ),
    Layout(
        *("MILK10k supplement", 2025, ("isic_id", "diagnosis_full"), "isic_id", "metadata"),
        optional=("diagnosis_confirm_type", "invasion_thickness_interval"),
        source="MILK10k",
    ),
    Layout("2020 duplicates", 2020, ("image_name_1", "image_name_2"), "image_name_1", "duplicates"),
    # Not an official one: the simplest table that a person with own photographs would write.
    Layout(
        *("plain", None, ("image", "target")),
        optional=("patient_id", "lesion_id", "diagnosis", "sex", "age", "site"),
        renamed={name: name for name in METADATA},
    ),
)
SOURCES = ("2016", "2017", "2018", "2019", "2020", "2024", "MILK10k", "archive")  # that may have rules of their own
LAYOUT_2016 = Layout("2016 ground truth", 2016, ("image", "label"))
