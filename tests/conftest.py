"""Fixtures: the notebook's definitions, on stand-in data."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import cells
import numpy as np
import pytest


def source(cell_id):
    """Return the source of the notebook's cell `cell_id`."""
    (cell,) = [cell for cell in cells.read().cells if cell.id == cell_id]
    return cell.source


@pytest.fixture(scope="session")
def definitions():
    return cells.define()


@pytest.fixture(scope="session")
def digits(definitions):
    """The stand-in data: (train images, labels), (test images, labels), as integers."""
    return definitions.from_digits()


@pytest.fixture(scope="session")
def loading():
    """The cells that make the arrays and the stores which the definitions work on."""
    return source("arrays") + "\n" + source("stores")


@pytest.fixture
def nb(definitions, digits, loading, tmp_path, capsys):
    """The notebook's names, with 200 images each to train on and to test.

    All that its cells load and collect is there, and empty; figures go to a temporary
    folder. What a test changes is undone.
    """
    nb, saved = definitions, dict(definitions.__dict__)
    names = [str(i) for i in range(10)]
    nb.data = nb.Data(*digits[0], *digits[1], names, "load_digits")
    nb.TRAIN_IMAGES, nb.TEST_IMAGES, nb.CURVE_IMAGES, nb.PAIRS = 200, 200, 100, 20
    nb.FIGURES = str(tmp_path / "figures")
    exec(loading, nb.__dict__)
    capsys.readouterr()
    nb.trainings, nb.verdicts, nb.shown = {}, {}, {"headline": None}
    yield nb
    nb.__dict__.clear()
    nb.__dict__.update(saved)


@pytest.fixture
def images(nb):
    """200 float images (n, 28, 28, 1) in [0, 1]."""
    return nb.train_images


@pytest.fixture
def displayed(nb):
    """What is displayed, in order: (thing, options)."""
    shown = []
    nb.display = lambda thing, **options: shown.append((thing, options))
    return shown


@pytest.fixture
def rng():
    return np.random.default_rng(0)
