"""What `fit` trains and validates on: the sides of a split, augmented where the recipe says so, in both packages."""

import numpy as np
import pytest

import torch_ref.data
import torch_ref.training.sources
import torch_ref.training.strategies
from keras_stoch import Pipeline
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.sources import make_source
from keras_stoch.training.strategies import get_strategy
from keras_stoch.training.subjects import make_subject


def images_of(batches):
    """The bytes of all small images of an epoch, in whatever order."""
    small = [batch[0]["low_res"] if isinstance(batch[0], dict) else batch[0] for batch in batches]
    return {image.tobytes() for images in small for image in np.asarray(images)}


@pytest.mark.parametrize(("augment", "augment_validation"), [(True, False), (False, True)])
def test_each_side_is_augmented_where_asked(tiny, lesions, augment, augment_validation):
    recipe = Recipe(batch_size=12, augment=augment, augment_validation=augment_validation)
    source = make_source(lesions, None, recipe, make_subject("tiny", recipe, 1), 1)
    strategy = get_strategy("one")[0]
    for side, split, augmented in (
        (source.train, "train", augment),
        (source.validation, "validation", augment_validation),
    ):
        plain = images_of(Pipeline(lesions, split, batch_size=12, low_res=32, high_res=None).epoch(0))
        found = [images_of(side(strategy, 0, epoch, 0)) for epoch in (0, 1)]
        assert [images == plain for images in found] == [not augmented] * 2
        assert (found[0] == found[1]) == (not augmented)


@pytest.mark.parametrize(("augment", "augment_validation"), [(True, False), (False, True)])
def test_of_the_torch_twin_too(tiny, lesions, augment, augment_validation):
    recipe = torch_ref.training.Recipe(
        batch_size=12, low_res=32, augment=augment, augment_validation=augment_validation
    )
    with torch_ref.training.strategies.get_strategy("cpu") as strategy:
        source = torch_ref.training.sources.make_source("tiny", lesions, recipe, 0, 0, strategy)
    for side, split, augmented in (
        (source.train, "train", augment),
        (source.validation, "validation", augment_validation),
    ):
        plain = images_of(torch_ref.data.make_loader(lesions, split, 12, 32, None))
        found = []
        for epoch in (0, 1):
            source.begin_epoch(epoch)
            found.append(images_of(side))
        assert [images == plain for images in found] == [not augmented] * 2
        assert (found[0] == found[1]) == (not augmented)
