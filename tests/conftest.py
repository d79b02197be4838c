"""Fixtures: the notebook's definitions, and small images to train on."""

import os

os.environ.setdefault("MPLBACKEND", "agg")

import cells
import numpy as np
import pytest


@pytest.fixture(scope="session")
def definitions():
    return cells.define()


@pytest.fixture
def nb(definitions, monkeypatch, tmp_path):
    """The notebook's names; what a test changes is undone, figures go to a temporary folder."""
    saved = dict(definitions.__dict__)
    definitions.FIGURES = str(tmp_path / "figures")
    definitions.claims.clear()
    yield definitions
    definitions.__dict__.clear()
    definitions.__dict__.update(saved)


@pytest.fixture(scope="session")
def digits(definitions):
    """The stand-in data: (train images, labels, test images, labels), uint8 (n, 28, 28)."""
    return definitions.from_digits()


@pytest.fixture(scope="session")
def images(definitions, digits):
    """256 float images (n, 28, 28, 1) in [0, 1]."""
    return definitions.normalise(digits[0][:256]).numpy()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
