"""The pipeline shows every image as the models need it; the loader trusts no source."""

import functools
import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import HOME

KINDS = "train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1".split()
NAMES = [f"{kind}-ubyte.gz" for kind in KINDS]
TFDS = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def test_the_pipeline_scales_and_shuffles_all_images_anew_each_epoch(nb):
    pixels = np.zeros((1000, 28, 28), np.uint8)
    pixels[:, 0, 0], pixels[:, 5, 1] = np.divmod(np.arange(1000), 256)
    dataset, orders = nb.make_dataset(pixels), []
    for _ in range(2):
        shown = np.concatenate([batch.numpy() for batch in dataset])
        assert shown.dtype == np.float32 and shown.shape == (1000, 28, 28, 1)
        order = np.round(shown[:, [0, 5], [0, 1], 0] * 255) @ [256, 1]
        np.testing.assert_allclose(shown[order.argsort()], pixels[..., None] / 255)
        orders.append(order)
    first, second = orders
    assert (first != second).mean() > 0.9
    # far, not only among neighbours: the buffer holds all of them
    assert first[:100].max() > 900 and np.abs(first - np.arange(1000)).mean() > 250


class Web(urllib.request.HTTPSHandler):
    """All that https:// reaches: `answer` gives the file of a name."""

    def __init__(self, files):
        super().__init__()
        self.files, self.asked, self.answer = files, [], files.get

    def https_open(self, request):
        assert socket.getdefaulttimeout(), "this may wait for ever"
        self.asked.append(request.selector.rpartition("/")[2])
        content = io.BytesIO(self.answer(self.asked[-1]))
        response = urllib.response.addinfourl(content, {}, "-", 200)
        response.msg = "OK"
        return response


@pytest.fixture
def web(nb, digits):
    """A network with digits that pass for the official files."""
    nb.official = [(x[:9], y[:9].astype("uint8")) for x, y in digits]
    arrays = [array for part in nb.official for array in part]
    files = [bytes(h) + x.tobytes() for h, x in zip((16, 8, 16, 8), arrays)]
    web = Web({name: gzip.compress(x) for name, x in zip(NAMES, files)})
    nb.MD5 = {name: hashlib.md5(x).hexdigest() for name, x in web.files.items()}
    urllib.request.install_opener(urllib.request.build_opener(web))
    yield web
    urllib.request.install_opener(None)


@pytest.fixture
def cache(web, monkeypatch):
    """The folder of Keras' files, all good; there is no TensorFlow Datasets."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    folder = Path(HOME.name) / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name, content in web.files.items():
        (folder / name).write_bytes(content)
    yield folder
    shutil.rmtree(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def offline(name):
    raise urllib.error.URLError("no network")


def test_good_files_are_loaded_without_a_download(nb, cache, web):
    train, test, class_names, source = nb.load_data()
    assert source == "keras.datasets" and class_names[9] == "Ankle boot"
    assert not web.asked
    for loaded, (pixels, labels) in zip((train, test), nb.official):
        np.testing.assert_array_equal(loaded.pixels, pixels)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert loaded.images.dtype == np.float32
        np.testing.assert_allclose(loaded.images, pixels[..., None] / 255, atol=1e-6)


DAMAGES = {
    "half": lambda files: {NAMES[2]: files[NAMES[2]][:-20]},
    "the labels of others": lambda files: {NAMES[1]: files[NAMES[3]]},
    "missing": lambda files: dict.fromkeys(NAMES[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_files_that_are_missing_or_damaged_are_downloaded(nb, cache, web, damage):
    damaged = damage(web.files)
    for name, content in damaged.items():
        (cache / name).write_bytes(content) if content else (cache / name).unlink()
    assert nb.load_data()[3] == "keras.datasets"
    assert sorted(web.asked) == sorted(damaged) and contents(cache) == web.files


def test_a_download_that_fails_is_named_and_costs_no_good_file(nb, cache, web, capsys):
    (cache / NAMES[2]).write_bytes(b"not the file")
    web.answer = lambda name: b"<html>Please log in"
    assert nb.load_data()[3] == "sklearn"
    assert socket.getdefaulttimeout() is None
    assert "keras.datasets: ValueError" in capsys.readouterr().out
    del web.files[NAMES[2]]
    assert web.files.items() <= contents(cache).items()


def test_without_any_source_digits_come_and_both_causes_are_named(
    nb, cache, web, capsys
):
    (cache / NAMES[0]).unlink()
    web.answer = offline
    train, test, class_names, source = nb.load_data()
    assert source == "sklearn" and class_names == list("0123456789")
    assert train.images.shape == (1400, 28, 28, 1) and len(test.labels) == 397
    assert train.pixels.dtype == np.uint8 and train.pixels.max() == 255
    said = capsys.readouterr().out
    assert re.search("keras.datasets: .*no network", said)
    assert re.search("tensorflow_datasets: ModuleNotFoundError", said)


@pytest.fixture
def tfds(cache, web, monkeypatch):
    """TensorFlow Datasets; one of Keras' files is missing, and there is no network."""
    (cache / NAMES[0]).unlink()
    web.answer = offline
    monkeypatch.delitem(sys.modules, "tensorflow_datasets")
    return pytest.importorskip("tensorflow_datasets")


@pytest.mark.skipif(not (TFDS / "fashion_mnist").exists(), reason="not prepared here")
def test_tensorflow_datasets_is_the_second_source(nb, tfds):
    train, test, _, source = nb.load_data()
    assert source == "tensorflow_datasets"
    assert train.pixels.shape == (60_000, 28, 28) and train.pixels.dtype == np.uint8
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_tensorflow_datasets_without_a_copy_is_named_and_downloads_none(
    nb, tfds, tmp_path, capsys, monkeypatch
):
    builder = functools.partial(tfds.builder, data_dir=tmp_path)
    monkeypatch.setattr(tfds, "builder", builder)
    assert nb.load_data()[3] == "sklearn"
    error = "tensorflow_datasets: FileNotFoundError.*fashion_mnist"
    assert re.search(error, capsys.readouterr().out)
    assert not list(tmp_path.rglob("*.*"))
