"""The pipeline shows every image as the models need it; the loader never runs on wrong data."""

import gzip
import os
import socket
from pathlib import Path

import numpy as np
import pytest

NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
cached = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets/fashion-mnist"
real = pytest.mark.skipif(
    not all((cached / n).exists() for n in NAMES), reason="Fashion-MNIST is not cached"
)
prepared = (
    Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / "fashion_mnist"
)


# --- pipeline


def collect(batches):
    return np.concatenate([batch.numpy() for batch in batches])


def test_pipeline_scales_adds_a_channel_and_keeps_every_image_in_order(nb, digits):
    images = digits[0][:130]
    batches = list(nb.make_pipeline(images, 64))
    assert [len(batch) for batch in batches] == [64, 64, 2]
    assert batches[0].dtype == np.float32
    np.testing.assert_allclose(collect(batches)[..., 0], images / 255.0, atol=1e-6)


def test_pipeline_shuffles_all_images_anew_each_epoch_and_repeatably(nb):
    images = np.arange(200, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    order = lambda batches: (collect(batches)[:, 0, 0, 0] * 255).round().astype(int)  # noqa: E731
    batches = nb.make_pipeline(images, 16, shuffle=True, seed=3)
    first, second = order(batches), order(batches)
    assert sorted(first) == sorted(second) == list(range(200))
    assert (first != second).mean() > 0.9
    assert np.abs(first - np.arange(200)).mean() > 40  # far, not only among neighbours
    assert (order(nb.make_pipeline(images, 16, shuffle=True, seed=3)) == first).all()


@pytest.mark.parametrize(
    "images",
    [np.zeros((4, 28, 28)), np.zeros((4, 784), np.uint8), np.zeros((0, 28, 28), np.uint8)],
    ids=["float", "flat", "none"],
)
def test_pipeline_refuses_other_images(nb, images):
    with pytest.raises(ValueError, match=r"uint8 images \(n, 28, 28\)"):
        nb.make_pipeline(images, 64)


def test_a_batch_larger_than_the_data_set_is_one_small_batch(nb, digits):
    assert [len(batch) for batch in nb.make_pipeline(digits[0][:10], 64, True, 0)] == [10]


# --- loader


@pytest.fixture
def offline(nb, monkeypatch, tmp_path):
    """Empty caches and no host; returns the folder where Keras would look."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(nb.tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "keras/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    return folder


def small(nb, monkeypatch):
    """Four arrays that pass for Fashion-MNIST: of its lengths, one pixel each, sums adjusted."""
    arrays = [
        np.ones((n, 1, 1), np.uint8)[: n if d == 3 else n] for n, d in ((60_000, 3), (10_000, 3))
    ]
    train, test = (arrays[0], np.zeros(60_000, int)), (arrays[1], np.zeros(10_000, int))
    nb.PIXEL_SUMS = [60_000, 10_000]
    return train, test


def test_without_any_source_the_stand_in_says_so(nb, offline, capsys):
    data = nb.load_data()
    assert data.dataset == "digits" and data.class_names == [str(i) for i in range(10)]
    assert data.train_images.shape == (1400, 28, 28) and data.train_images.dtype == np.uint8
    assert len(data.test_images) == len(data.test_labels) == 397
    said = capsys.readouterr().out
    assert "keras.datasets.fashion_mnist: " in said and "tfds.load: " in said
    assert said.count("cannot be reached") == 2


def garbage(path):
    path.write_bytes(b"not the file")


def truncated(path):
    path.write_bytes(gzip.compress(bytes(5000))[:100])


def other_data(path):
    path.write_bytes(gzip.compress(bytes(16 + 784 * 10)))  # well-formed, as plain MNIST would be


@pytest.mark.parametrize("damage", [garbage, truncated, other_data])
@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_a_wrong_cached_file_is_named_and_left_alone(nb, offline, damage, name):
    damage(offline / name)
    before = (offline / name).read_bytes()
    with pytest.raises(ValueError, match=name) as caught:
        nb.load_data()
    assert "Delete it" in str(caught.value)
    assert (offline / name).read_bytes() == before


@real
def test_one_missing_file_costs_no_good_one(nb, offline, capsys):
    for name in NAMES[1:]:
        (offline / name).symlink_to((cached / name).resolve())
    assert nb.load_data().dataset == "digits"
    assert NAMES[0] in capsys.readouterr().out
    assert sorted(path.name for path in offline.iterdir()) == sorted(NAMES[1:])


def test_a_download_that_breaks_off_is_tried_again_next_time(nb, offline, monkeypatch):
    def broken():
        raise Exception("URL fetch failure: retrieval incomplete")

    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", broken)
    nb.check_host = lambda url: None
    nb.from_tfds = lambda: (_ for _ in ()).throw(OSError("away"))
    assert nb.load_data().dataset == "digits"
    train, test = small(nb, monkeypatch)
    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", lambda: (train, test))
    assert nb.load_data().dataset == "fashion_mnist"


def test_a_download_that_leaves_a_bad_file_is_an_error(nb, offline, monkeypatch):
    def bad():
        garbage(offline / NAMES[0])
        raise EOFError("Compressed file ended")

    monkeypatch.setattr(nb.keras.datasets.fashion_mnist, "load_data", bad)
    nb.check_host = lambda url: None
    with pytest.raises(ValueError, match=NAMES[0]):
        nb.load_data()


@pytest.mark.parametrize("fault", ["lengths", "pixels"])
def test_arrays_that_are_not_fashion_mnist_are_refused(nb, offline, monkeypatch, fault):
    train, test = small(nb, monkeypatch)
    if fault == "lengths":
        train = (train[0], train[1][:-1])
    else:
        train = (train[0] + np.uint8(1), train[1])
    nb.from_keras = lambda: (*train, *test)
    with pytest.raises(ValueError, match="other data than Fashion-MNIST"):
        nb.load_data()


def test_an_unwritable_keras_folder_is_looked_for_where_keras_looks(nb, offline, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert {path.parent for path in nb.check_files()} <= {
        Path("/tmp/.keras/datasets/fashion-mnist")
    }


def test_a_host_that_accepts_and_says_nothing_counts_as_away(nb):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(OSError, match="cannot be reached"):
            nb.check_host(f"http://127.0.0.1:{server.getsockname()[1]}/", seconds=0.5)


@real
def test_the_official_files_load_in_their_order(nb):
    data = nb.load_data()
    assert data.dataset == "fashion_mnist" and data.class_names[9] == "Ankle boot"
    counts = np.bincount(data.test_labels[:1000])
    assert counts.tolist() == [107, 105, 111, 93, 115, 87, 97, 95, 95, 95]


@pytest.mark.skipif(not prepared.exists(), reason="TensorFlow Datasets has not prepared the data")
def test_tensorflow_datasets_is_the_second_source(nb, monkeypatch, tmp_path):
    (tmp_path / "keras").mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    data = nb.load_data()
    assert (data.dataset, data.source) == ("fashion_mnist (TFDS)", "tfds.load")
    assert (
        data.train_images.shape == (60_000, 28, 28)
        and np.bincount(data.test_labels).tolist() == [1000] * 10
    )
