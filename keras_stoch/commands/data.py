"""Commands on data: prepare, split, audit, lesions, augment."""

from keras_stoch.commands.options import (
    add_command,
    add_malignant,
    add_split,
    load_tensorflow,
    malignant_rule,
    place_for,
)


def add_prepare(commands):
    command = add_command(
        *(commands, "prepare", _prepare, "filter, crop and resize labelled photographs; goes on if interrupted"),
        resumes=True,
    )
    command.add_argument("raw", metavar="RAW", help="folder of photographs, searched at any depth")
    command.add_argument("labels", nargs="+", metavar="LABELS", help="label files, or folders of them")
    command.add_argument("out", metavar="OUT", help="folder to write, new or from an earlier run of this command")
    pixels = command.add_argument_group("pixels")
    pixels.add_argument("--size", type=int, default=1024, metavar="PIXELS", help="side of the prepared images")
    pixels.add_argument("--min-side", type=int, default=1000, metavar="PIXELS", help="smaller images are dropped")
    pixels.add_argument("--crop-over", type=int, default=3048, metavar="PIXELS", help="larger images are cropped")
    pixels.add_argument("--crop-to", type=int, default=2048, metavar="PIXELS", help="to this side")
    pixels.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="of the prepared images")
    pixels.add_argument("--quality", type=int, default=95, help="of JPEG, without chroma subsampling")
    add_malignant(command)
    command.add_argument("--on-conflict", choices=("latest", "drop"), default="latest", help="if years disagree")
    add_split(command)
    command.add_argument("--shards", type=int, default=0, metavar="N", help="also write N TFRecord files")
    command.add_argument("--workers", type=int, metavar="N", help="threads; all cores if left out")
    command.add_argument(
        "--replace",
        action="store_true",
        help="remove or replace images of an earlier run that this one does not have",
    )


def _prepare(options):
    from keras_stoch.data.prepare import Settings, describe, prepare

    settings = Settings(
        *(options.size, options.min_side, options.crop_over, options.crop_to, options.format, options.quality)
    )
    if options.shards:
        load_tensorflow()
    record = prepare(
        options.raw,
        options.labels,
        options.out,
        settings=settings,
        malignant=malignant_rule(options),
        on_conflict=options.on_conflict,
        split=options.split,
        validation=options.validation,
        seed=options.seed,
        shards=options.shards,
        workers=options.workers,
        replace=options.replace,
        progress=not options.quiet,
    )
    print(describe(record))
    print(f"{options.out}/manifest.csv and prepare.json tell the rest")


def add_split_command(commands):
    command = add_command(
        commands, "split", _split, "divide a prepared folder anew: train, validation and test, or folds, by group"
    )
    command.add_argument("prepared", metavar="PREPARED", help="folder written by prepare or lesions")
    command.add_argument(
        "--folds", type=int, metavar="K", help="for cross-validation: run n of fit is validated on fold n"
    )
    command.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="without --folds")
    command.add_argument("--test", type=float, default=0.0, metavar="SHARE", help="held out for the end")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the split")


def _split(options):
    from keras_stoch.data.splits import split

    told = split(
        options.prepared, folds=options.folds, validation=options.validation, test=options.test, seed=options.seed
    )
    print(told.to_string(index=False))


def add_audit(commands):
    command = add_command(
        commands, "audit", _audit, "count duplicates, conflicting labels and what a random split leaks"
    )
    command.add_argument("labels", nargs="+", metavar="LABELS", help="label files, or folders of them")
    command.add_argument("--images", metavar="FOLDER", help="photographs, to find near-duplicates among")
    command.add_argument("--json", metavar="FILE", help="also write the findings there")
    add_malignant(command)
    add_split(command)


def _audit(options):
    from keras_stoch.data.audit import audit
    from keras_stoch.data.labels import label_files, read_labels
    from keras_stoch.data.photographs import check_folder

    label_files(options.labels)
    if options.images:
        check_folder(options.images)
    if options.json:
        place_for(options.json)
    found = audit(
        read_labels(options.labels, malignant_rule(options)),
        options.images,
        validation=options.validation,
        split=options.split,
        seed=options.seed,
        progress=not options.quiet,
    )
    print(found)
    if options.json:
        print(f"\n{found.to_json(options.json)}")


def add_lesions(commands):
    command = add_command(
        commands, "lesions", _lesions, "write generated lesions whose class lies in fine detail only", True
    )
    command.add_argument("out", metavar="OUT", help="folder to write")
    command.add_argument("--count", type=int, default=1000, metavar="N", help="images, half of each class")
    command.add_argument("--size", type=int, default=1024, metavar="PIXELS", help="their side")
    command.add_argument("--strength", type=float, default=1.0, help="0 makes the classes equal; at most 3")
    command.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="share of validation images")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn")
    command.add_argument("--figure", metavar="FILE", help="also draw some of them")


def _lesions(options):
    from keras_stoch.data.synthetic import write_lesions

    if options.figure:
        place_for(options.figure)
    print(
        write_lesions(
            options.out,
            options.count,
            size=options.size,
            strength=options.strength,
            validation=options.validation,
            seed=options.seed,
            progress=not options.quiet,
        )
    )
    if options.figure:
        from keras_stoch.evaluation.figures import lesions_figure

        print(lesions_figure(options.figure, size=options.size, strength=options.strength, seed=options.seed))


def add_augment(commands):
    command = add_command(commands, "augment", _augment, "draw prepared images and their augmented pairs")
    command.add_argument("data", metavar="PREPARED", help="folder written by prepare or lesions")
    command.add_argument("--out", default="augmented.png", metavar="FILE", help="the figure")
    command.add_argument("--images", type=int, default=4, metavar="N", help="how many")
    command.add_argument("--epochs", type=int, default=2, metavar="N", help="augmented pairs of each")
    command.add_argument("--low-res", type=int, default=224, metavar="PIXELS", help="side of the small images")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the transforms")


def _augment(options):
    from keras_stoch.evaluation.figures import augmentation_figure
    from keras_stoch.files import check_prepared

    check_prepared(options.data)
    load_tensorflow()
    print(
        augmentation_figure(
            *(options.data, place_for(options.out)),
            images=options.images,
            epochs=options.epochs,
            low_res=options.low_res,
            seed=options.seed,
        )
    )
