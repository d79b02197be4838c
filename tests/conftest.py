"""The notebook's definitions, small stand-in data for them, and common helpers."""

import os
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
os.environ["OMP_WAIT_POLICY"] = "passive"  # as in the notebook, but before Keras
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


def weights(model):
    """Return all weights of a model as one vector."""
    return np.concatenate([weight.numpy().ravel() for weight in model.weights])


def numbers_in(value):
    """Return all numbers in nested results."""
    if not isinstance(value, (dict, list)):
        return [value] if isinstance(value, (int, float)) else []
    parts = value.values() if isinstance(value, dict) else value
    return [number for part in parts for number in numbers_in(part)]


def create(nb, name="VAE", epochs=1):
    """Return a new training of the model called `name`."""
    return nb.Training(getattr(nb, name), nb.train_set.pixels, epochs, nb.LATENT_DIM)


def run_cell(nb, pattern, old="", new=""):
    """Run the one cell that has a match of `pattern`, with `new` in place of `old`."""
    sources = cells.code_cells(cells.read())
    (source,) = (x for x in sources if re.search(pattern, x, flags=re.M))
    assert old in source
    exec(source.replace(old, new), nb.__dict__)


@pytest.fixture(scope="session")
def definitions():
    return cells.define()


@pytest.fixture(scope="session")
def digits(definitions):
    """The stand-in data: (train pixels, labels), (test pixels, labels)."""
    return definitions.load_from_sklearn()


@pytest.fixture
def nb(definitions, digits, tmp_path):
    """The notebook's names, with 200 images each to train on and to test.

    What it collects is empty, its figures go to a temporary folder, and what a test
    changes is undone.
    """
    nb, saved = definitions, dict(definitions.__dict__)
    nb.train_set, nb.test_set = (
        nb.ImageSet(x, nb.normalize(x).numpy(), y).head(200) for x, y in digits
    )
    nb.CLASS_NAMES, nb.FIGURES = list("0123456789"), tmp_path / "figures"
    nb.results, nb.analyses, nb.figure_numbers = defaultdict(dict), {}, {}
    nb.display = lambda shown: None
    yield nb
    nb.__dict__.clear()
    nb.__dict__.update(saved)


@pytest.fixture
def images(nb):
    """200 float images (n, 28, 28, 1) in [0, 1]."""
    return nb.train_set.images
