"""The pipeline shows every image as the models need it; the loader trusts no source."""

import gzip
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
cached = KERAS_HOME / "datasets/fashion-mnist"
real = pytest.mark.skipif(
    not all((cached / n).exists() for n in NAMES), reason="Fashion-MNIST is not cached"
)
TFDS_HOME = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
prepared = Path(TFDS_HOME).expanduser() / "fashion_mnist"


# --- pipeline


def collect(batches):
    return np.concatenate([batch.numpy() for batch in batches])


def test_pipeline_scales_adds_a_channel_and_keeps_every_image_in_order(nb, digits):
    images = digits[0][0][:130]
    batches = list(nb.make_pipeline(images, 64))
    assert [len(batch) for batch in batches] == [64, 64, 2]
    assert batches[0].dtype == np.float32
    np.testing.assert_allclose(collect(batches)[..., 0], images / 255.0, atol=1e-6)


def test_pipeline_shuffles_all_images_anew_each_epoch_and_repeatably(nb):
    images = np.zeros((1000, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(1000), 256)

    def order(batches):
        pixels = (collect(batches)[:, 0, :2, 0] * 255).round().astype(int)
        return pixels @ [256, 1]

    batches = nb.make_pipeline(images, 16, shuffle=True, seed=3)
    first, second = order(batches), order(batches)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.9
    # far, not only among neighbours: the buffer holds all of them
    assert first[:100].max() > 900 and np.abs(first - np.arange(1000)).mean() > 250
    assert (order(nb.make_pipeline(images, 16, shuffle=True, seed=3)) == first).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 28, 28)),
        np.zeros((4, 784), np.uint8),
        np.zeros((0, 28, 28), np.uint8),
    ],
    ids=["float", "flat", "none"],
)
def test_pipeline_refuses_other_images(nb, images):
    with pytest.raises(ValueError, match=r"uint8 images \(n, 28, 28\)"):
        nb.make_pipeline(images, 64)


def test_a_batch_larger_than_the_data_set_is_one_small_batch(nb, digits):
    batches = nb.make_pipeline(digits[0][0][:10], 64, True, 0)
    assert [len(batch) for batch in batches] == [10]


# --- loader


@pytest.fixture
def offline(nb, monkeypatch, tmp_path):
    """Empty caches and no host; returns the folder where Keras looks."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    # Keras read the variable when it was imported
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(nb.tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "keras/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder, train, test):
    """Write both sets, (images, labels) each, as the four files of Fashion-MNIST."""
    arrays = [train[0], train[1], test[0], test[1]]
    for name, array, header in zip(NAMES, arrays, (16, 8, 16, 8)):
        content = bytes(header) + np.asarray(array, np.uint8).tobytes()
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1))


@pytest.fixture
def official(nb, digits):
    """Digits that pass for the official data: two sets (images, labels)."""
    sets = [(images[:50], labels[:50]) for images, labels in digits]
    nb.CHECKSUMS = [nb.checksum(*part) for part in sets]
    return sets


def away():
    raise OSError("away")


def test_files_in_keras_cache_are_loaded_from_there(nb, offline, official):
    write(offline, *official)
    data = nb.load_data()
    assert data.source == "keras.datasets.fashion_mnist"
    np.testing.assert_array_equal(data.train_images, official[0][0])
    np.testing.assert_array_equal(data.test_labels, official[1][1])


def test_keras_is_asked_first(nb, official):
    nb.from_keras = lambda: official
    nb.from_tfds = lambda: pytest.fail("was asked although Keras had the data")
    assert nb.load_data().source == "keras.datasets.fashion_mnist"


def test_tensorflow_datasets_is_asked_second(nb, official, capsys):
    nb.from_keras, nb.from_tfds = away, lambda: official
    data = nb.load_data()
    assert data.source == "tfds.load"
    assert data.class_names[9] == "Ankle boot"
    assert "keras.datasets.fashion_mnist is away" in capsys.readouterr().out


def test_without_any_source_the_stand_in_says_so_and_soon(nb, offline, capsys):
    start = time.perf_counter()
    data = nb.load_data()
    assert time.perf_counter() - start < 10
    assert data.source == "load_digits" and data.class_names == [
        str(i) for i in range(10)
    ]
    assert data.train_images.shape == (1400, 28, 28)
    assert data.train_images.dtype == np.uint8 and data.train_images.max() == 255
    assert len(data.test_images) == len(data.test_labels) == 397
    said = capsys.readouterr().out
    assert (
        "keras.datasets.fashion_mnist is away" in said and "tfds.load is away" in said
    )


def garbage(folder, name):
    (folder / name).write_bytes(b"not the file")


def truncated(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def other_lengths(folder, name):
    """Well-formed files of fewer images."""
    images, labels = np.ones((20, 28, 28)), np.ones(20)
    write(folder, (images, labels), (images, labels))


@pytest.mark.parametrize("damage", [garbage, truncated, other_lengths])
@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_a_damaged_cache_is_named_and_left_alone(nb, offline, official, damage, name):
    write(offline, *official)
    damage(offline, name)
    before = contents(offline)
    with pytest.raises(ValueError) as caught:  # no digits in its place
        nb.load_data()
    assert str(offline) in str(caught.value) and "delete" in str(caught.value)
    assert contents(offline) == before


def one_pixel(images, labels):
    images = images.copy()
    images[7, 3, 3] ^= 1
    return images, labels


def two_labels_swapped(images, labels):
    labels = labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    return images, labels


def one_label(images, labels):
    return images, np.r_[labels[:-1], (labels[-1] + 1) % 10]


def shorter(images, labels):
    return images[:-1], labels[:-1]


def a_label_short(images, labels):
    return images, labels[:-1]


CHANGES = [one_pixel, two_labels_swapped, one_label, shorter, a_label_short]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", [0, 1], ids=["train", "test"])
@pytest.mark.parametrize("source", ["keras", "tfds"])
def test_other_content_is_refused_whatever_the_source(
    nb, official, monkeypatch, tmp_path, source, part, change
):
    sets = list(official)
    sets[part] = change(*sets[part])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    nb.check_host = lambda url: None
    if source == "keras":
        (tmp_path / "datasets/fashion-mnist").mkdir(parents=True)
        for name in NAMES:
            garbage(tmp_path / "datasets/fashion-mnist", name)
        monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", lambda: sets)
    else:
        nb.from_keras = away
        serve_by_tfds(nb, monkeypatch, tmp_path, sets)
    with pytest.raises(ValueError, match="delete"):
        nb.load_data()


def serve_by_tfds(nb, monkeypatch, tmp_path, sets):
    """Make TensorFlow Datasets return `sets`, as if they had been prepared."""

    class Builder:
        data_dir = tmp_path
        is_prepared = staticmethod(lambda: True)

    supervised = [(images[..., None], labels) for images, labels in sets]
    monkeypatch.setattr(nb.tfds, "builder", lambda name: Builder)
    monkeypatch.setattr(nb.tfds, "load", lambda name, **form: supervised)
    monkeypatch.setattr(nb.tfds, "as_numpy", lambda dataset: dataset)


def test_the_order_of_tensorflow_datasets_is_no_fault(
    nb, official, monkeypatch, tmp_path, rng
):
    order = rng.permutation(50)
    shuffled = [(images[order], labels[order]) for images, labels in official]
    nb.from_keras = away
    serve_by_tfds(nb, monkeypatch, tmp_path, shuffled)
    np.testing.assert_array_equal(nb.load_data().train_labels, official[0][1][order])


def test_one_missing_file_costs_no_good_one(nb, offline, official, capsys):
    write(offline, *official)
    (offline / NAMES[0]).unlink()
    before = contents(offline)
    assert nb.load_data().source == "load_digits"
    assert "keras.datasets.fashion_mnist is away" in capsys.readouterr().out
    assert contents(offline) == before


def test_a_download_that_breaks_off_is_tried_again_next_time(
    nb, offline, official, monkeypatch, capsys
):
    def broken():
        raise Exception("URL fetch failure: retrieval incomplete")

    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", broken)
    nb.check_host = lambda url: None
    nb.from_tfds = away
    assert nb.load_data().source == "load_digits"
    assert "retrieval incomplete" in capsys.readouterr().out

    def whole():
        write(offline, *official)
        return official

    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", whole)
    assert nb.load_data().source == "keras.datasets.fashion_mnist"


def test_a_download_that_leaves_a_bad_file_is_an_error(
    nb, offline, official, monkeypatch
):
    def bad():
        write(offline, *official)
        garbage(offline, NAMES[0])
        raise EOFError("Compressed file ended")

    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", bad)
    nb.check_host = lambda url: None
    with pytest.raises(ValueError, match="delete"):
        nb.load_data()


def test_an_unwritable_keras_folder_is_looked_for_where_keras_looks(
    nb, offline, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    nb.load_verified = lambda load, folder, *rest: folder
    assert nb.from_keras() == Path("/tmp/.keras/datasets/fashion-mnist")


@pytest.fixture
def silent():
    """The address of a server that accepts and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_a_host_that_accepts_and_says_nothing_counts_as_away(nb, silent):
    with pytest.raises(OSError):
        nb.check_host(silent, seconds=0.5)


def test_a_name_that_nobody_looks_up_counts_as_away(nb, monkeypatch):
    hung = threading.Event()
    monkeypatch.setattr(nb, "urlopen", lambda url, timeout: hung.wait(60))
    start = time.perf_counter()
    try:
        with pytest.raises(OSError):
            nb.check_host("http://nowhere.invalid/", seconds=0.5)
        assert time.perf_counter() - start < 5
    finally:
        hung.set()


def test_a_download_that_stalls_ends(nb, silent):
    patience = []

    def stalled():
        patience.append(socket.getdefaulttimeout())
        socket.setdefaulttimeout(0.5)  # not to wait for so long here
        nb.urlopen(silent)

    nb.check_host = lambda url: None
    try:
        with pytest.raises(OSError, match="download failed"):
            nb.load_verified(stalled, "folder", lambda: False, silent)
    finally:
        socket.setdefaulttimeout(None)
    assert 1 <= patience[0] <= 30


@real
def test_the_official_files_load_in_their_order(nb):
    data = nb.load_data()
    assert (
        data.source == "keras.datasets.fashion_mnist"
        and data.class_names[9] == "Ankle boot"
    )
    assert data.train_images.shape == (60_000, 28, 28)
    counts = np.bincount(data.test_labels[:1000])
    assert counts.tolist() == [107, 105, 111, 93, 115, 87, 97, 95, 95, 95]


@pytest.mark.skipif(not prepared.exists(), reason="TFDS has not prepared the data")
def test_tensorflow_datasets_is_the_second_source(nb, monkeypatch, tmp_path):
    (tmp_path / "keras").mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    data = nb.load_data()
    assert data.source == "tfds.load"
    assert data.train_images.shape == (60_000, 28, 28)
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
