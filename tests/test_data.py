"""The pipeline shows every image as the models need it; the loader trusts no source."""

import gzip
import os
import shutil
import socket
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import HOME

NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
TFDS = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


# --- parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"TRAIN_IMAGES": 6e3},
        {"EPOCHS": 2.0},
        {"EPOCHS": "2"},
        {"SEED": 7.0},
        {"BATCH_SIZE": 0},
        {"LEARNING_RATE": -1e-3},
        {"LATENT_DIM": 64, "TRAIN_IMAGES": 50},
    ],
)
def test_a_parameter_that_cannot_work_is_named(nb, changes):
    parameters = {key: getattr(nb, key) for key in nb.NAMES} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        nb.check_parameters(parameters)


def test_numpy_numbers_are_accepted(nb):
    parameters = {key: np.int64(getattr(nb, key)) for key in nb.NAMES}
    nb.check_parameters(parameters | {"LEARNING_RATE": np.float32(1e-3)})


# --- pipeline


def collect(dataset):
    return np.concatenate([batch.numpy() for batch in dataset])


def test_the_pipeline_scales_and_adds_a_channel_and_keeps_every_image(nb):
    images = nb.train_set.images[:130]
    shown = collect(nb.make_dataset(images, 64, 0))
    assert shown.dtype == np.float32 and shown.shape == (130, 28, 28, 1)
    pixels = np.round(shown.reshape(-1, 784) * 255).astype("uint8").tolist()
    assert sorted(pixels) == sorted(images.reshape(-1, 784).tolist())


def test_the_pipeline_shuffles_all_images_anew_each_epoch(nb):
    images = np.zeros((1000, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(1000), 256)
    dataset = nb.make_dataset(images, 16, 3)
    first, second = (
        np.round(collect(dataset)[:, 0, :2, 0] * 255) @ [256, 1] for _ in range(2)
    )
    assert (first != second).mean() > 0.9
    # far, not only among neighbours: the buffer holds all of them
    assert first[:100].max() > 900 and np.abs(first - np.arange(1000)).mean() > 250


@pytest.mark.parametrize("images", [np.zeros((4, 28, 28)), np.zeros((4, 784), "uint8")])
def test_the_pipeline_refuses_other_images(nb, images):
    with pytest.raises(ValueError, match=r"uint8 images \(n, 28, 28\)"):
        nb.make_dataset(images, 64, 0)


# --- loader


@pytest.fixture
def offline(nb, monkeypatch):
    """No server, no TensorFlow Datasets; returns the empty folder of Keras' files."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    nb.SERVER = "http://127.0.0.1:9/"
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # an ImportError
    folder = Path(HOME.name) / "datasets/fashion-mnist"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def official(nb, digits):
    """Digits that pass for the official data: two sets (images, labels)."""
    sets = [(images[:50], labels[:50]) for images, labels in digits]
    sets = [(images, labels.astype("uint8")) for images, labels in sets]
    nb.CHECKSUM = zlib.crc32(b"".join(x.tobytes() for part in sets for x in part))
    return sets


def write(folder, train, test):
    """Write both sets, (images, labels) each, as the four files of Fashion-MNIST."""
    for name, array, header in zip(NAMES, [*train, *test], (16, 8, 16, 8)):
        content = bytes(header) + np.asarray(array, np.uint8).tobytes()
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_in_keras_cache_are_loaded_from_there(nb, offline, official):
    write(offline, *official)
    (offline / f"._{NAMES[0]}").write_bytes(b"a twin that macOS left")
    (offline / f"backup {NAMES[1]}").write_bytes(b"another")
    train, test, class_names, source = nb.load_data()
    assert source == "keras.datasets.fashion_mnist" and class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(train.images, official[0][0])
    np.testing.assert_array_equal(test.labels, official[1][1])


def test_missing_files_are_downloaded(nb, offline, official, tmp_path):
    write(tmp_path, *official)
    nb.SERVER = tmp_path.as_uri() + "/"
    assert nb.load_data()[3] == "keras.datasets.fashion_mnist"
    assert contents(offline) == contents(tmp_path)


def test_without_any_source_the_stand_in_comes_and_says_so(nb, offline, capsys):
    train, test, class_names, source = nb.load_data()
    assert source == "sklearn.load_digits" and class_names == list("0123456789")
    assert train.images.shape == (1400, 28, 28) and len(test.labels) == 397
    assert train.images.dtype == np.uint8 and train.images.max() == 255
    said = capsys.readouterr().out
    assert "keras.datasets.fashion_mnist" in said and "tensorflow_datasets" in said


DAMAGES = {
    "garbage": lambda files: {NAMES[0]: b"not the file"},
    "half": lambda files: {NAMES[3]: files[NAMES[3]][:-20]},
    "the labels of others": lambda files: {NAMES[1]: files[NAMES[3]]},
    "the page of a portal": lambda files: dict.fromkeys(files, b"<html>Please log in"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_named_and_left_alone(nb, offline, official, damage):
    write(offline, *official)
    for name, content in damage(contents(offline)).items():
        (offline / name).write_bytes(content)
    before = contents(offline)
    with pytest.raises(ValueError) as caught:  # no digits in its place
        nb.load_data()
    assert str(offline) in str(caught.value) and "delete" in str(caught.value)
    assert contents(offline) == before


HALF = b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
ANSWERS = {
    "nonsense": lambda handler: handler.wfile.write(b"garbage\r\n"),
    "half a file": lambda handler: handler.wfile.write(HALF),
    "silence": lambda handler: time.sleep(30),
    "no port": None,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_network_that_fails_costs_no_good_file_and_little_time(
    nb, offline, official, capsys, answer
):
    write(offline, *official)
    (offline / NAMES[0]).unlink()
    before, start, nb.PATIENCE = contents(offline), time.perf_counter(), 1
    handler = {"do_GET": answer, "log_message": lambda *_: None}
    handler = type("Handler", (BaseHTTPRequestHandler,), handler)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if answer else "port"
        nb.SERVER = f"http://127.0.0.1:{port}/"
        assert nb.load_data()[3] == "sklearn.load_digits"
        assert time.perf_counter() - start < 15
        server.shutdown()
    assert "cannot be reached" in capsys.readouterr().out
    assert contents(offline) == before
    assert socket.getdefaulttimeout() is None  # nothing else ends early


def test_a_hung_name_lookup_ends_when_patience_does(nb, offline, monkeypatch):
    nb.SERVER, nb.PATIENCE, over = "http://server.example/", 1, threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30))
    start = time.perf_counter()
    assert nb.load_data()[3] == "sklearn.load_digits"
    assert time.perf_counter() - start < 15
    over.set()


@pytest.mark.skipif(not (TFDS / "fashion_mnist").exists(), reason="not prepared here")
def test_tensorflow_datasets_is_the_second_source(nb, offline, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow_datasets")
    pytest.importorskip("tensorflow_datasets")
    train, test, _, source = nb.load_data()
    assert source == "tensorflow_datasets"
    assert train.images.shape == (60_000, 28, 28) and train.images.dtype == np.uint8
    assert np.bincount(test.labels).tolist() == [1000] * 10
