"""Fixtures: the notebook's definitions, and small stand-in data for them."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import cells
import numpy as np
import pytest

# Keras looks for its folder when it is imported: here a new one, so that tests can
# fill its cache; kernels and other processes get the one of the environment
HOME = tempfile.TemporaryDirectory(prefix="keras-")
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("KERAS_HOME", HOME.name)
    patch.setenv("KERAS_BACKEND", "tensorflow")
    import keras  # noqa: F401
    import tensorflow as tf


def weights(model):
    """Return all weights of a model as one vector."""
    return np.concatenate([weight.numpy().ravel() for weight in model.weights])


def numbers_in(value):
    """Return all numbers in nested results."""
    if not isinstance(value, (dict, list)):
        return [value] if isinstance(value, (int, float)) else []
    parts = value.values() if isinstance(value, dict) else value
    return [number for part in parts for number in numbers_in(part)]


@pytest.fixture(scope="session")
def definitions():
    return cells.define()


@pytest.fixture(scope="session")
def digits(definitions):
    """The stand-in data: (train images, labels), (test images, labels), as integers."""
    return definitions.load_from_sklearn()


@pytest.fixture
def nb(definitions, digits, tmp_path):
    """The notebook's names, with 200 images each to train on and to test.

    What it collects is empty, its figures go to a temporary folder, what it displays
    to nb.shown as (thing, options), and what a test changes is undone.
    """
    nb, saved = definitions, dict(definitions.__dict__)
    nb.train_set, nb.test_set = (nb.ImageSet(*part).head(200) for part in digits)
    nb.train_images, nb.test_images = (
        nb.normalize(part.images).numpy() for part in (nb.train_set, nb.test_set)
    )
    nb.CURVE_IMAGES, nb.FIGURES = 100, tmp_path / "figures"
    nb.trainings, nb.results, nb.intervals, nb.figure_numbers = {}, {}, {}, {}
    nb.shown = []
    nb.display = lambda thing, **options: nb.shown.append((thing, options))
    yield nb
    nb.__dict__.clear()
    nb.__dict__.update(saved)


@pytest.fixture
def images(nb):
    """200 float images (n, 28, 28, 1) in [0, 1]."""
    return nb.train_images


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def eager():
    """Steps run as they stand: no time goes into compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
