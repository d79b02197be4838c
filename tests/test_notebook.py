"""The notebook as a whole: it runs anywhere, and any cell again alone."""

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cells
import nbformat
import numpy as np
import pytest
import run_notebook
from conftest import numbers_in

QUICK = """
EPOCHS, BATCH_SIZE, TRAIN_IMAGES, TEST_IMAGES, CURVE_IMAGES = 1, 16, 160, 60, 60
MAP_IMAGES, SAMPLES, ABLATION_STEPS = 50, 100, 5
"""
HOSTILE = "image.origin: lower\nsavefig.format: svg\ntext.usetex: True\n"
HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
DATA = HOME / "datasets" / "fashion-mnist" / "train-images-idx3-ubyte.gz"
TELL = """
import json
told = {"source": SOURCE, "results": results, "history": vae_training.history}
print(json.dumps(told, default=lambda x: np.asarray(x).tolist()))
"""


def run(client, indices=None):
    """Run all cells, or those with `indices`, in the kernel of `client`."""
    for i in range(len(client.nb.cells)) if indices is None else indices:
        client.execute_cell(client.nb.cells[i], i)


def run_more(client, source):
    """Run a cell that is not in the notebook; return what it prints."""
    own = client.nb.cells
    own.append(nbformat.v4.new_code_cell(source))
    run(client, [len(own) - 1])
    outputs = own.pop().outputs
    assert not [x for x in outputs if x.get("name") == "stderr"], outputs
    return "".join(x.get("text", "") for x in outputs)


def run_again(client, order):
    """Run every cell of code again alone, in this order.

    The cell that starts the collection over is left out. One that creates a training
    is followed by the one that trains.
    """
    own = client.nb.cells
    code = [i for i, cell in enumerate(own) if cell.cell_type == "code"]
    binds = lambda i, start: re.search(f"^{start}", own[i].source, flags=re.M)
    for i in order([i for i in code if not binds(i, "results = ")]):
        run(client, [i])
        if binds(i, r"\w+_training = Training\("):
            run(client, [code[code.index(i) + 1]])


def outputs_of(client):
    return {cell.id: cell.get("outputs", []) for cell in client.nb.cells}


def check_run(notebook, told):
    """Check what holds for outputs and numbers of every run; return the results."""
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", [])]
    assert not [x for x in outputs if x.get("name") == "stderr"]
    data = [x.data for x in outputs if "data" in x]
    captions = "\n".join(x.get("text/markdown", "") for x in data)
    numbers = re.findall(r"^\*\*Figure (\d+)\.\*\* .", captions, flags=re.M)
    pictures = [x for x in outputs if "image/png" in x.get("data", {})]
    assert len(pictures) >= 16
    assert numbers == [str(i + 1) for i in range(len(pictures))]
    for picture in pictures:
        description = picture.metadata["image/png"]["alt"]
        assert description and picture.data["text/plain"] == description
    results = told["results"]
    assert np.isfinite(numbers_in([results, told["history"]])).all()
    vae, autoencoder = results["VAE"], results["Autoencoder"]
    parts, total = results["VAE minus Autoencoder"], vae["loss"] - autoencoder["loss"]
    # float32: of losses near 500, which differ by little if nothing is learned
    assert sum(parts.values()) == pytest.approx(2 * total, abs=1e-3)
    gain = autoencoder["knn"] - results["pixels"]["knn"]
    assert results["Autoencoder minus pixels"]["knn"] == pytest.approx(gain)
    return results


def test_on_a_strangers_machine_it_runs_any_cell_again_and_all_with_other_settings(
    tmp_path, monkeypatch
):
    """Without network or data, on digits, with codes of two numbers."""
    folder = tmp_path / "Übung 7 (neu)"
    folder.mkdir()
    shutil.copy(cells.PATH, folder)
    (tmp_path / "matplotlibrc").write_text(HOSTILE)
    for name in "KERAS_HOME", "TFDS_DATA_DIR":
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in "http_proxy", "https_proxy":
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("MPLBACKEND", "module://backend_interagg")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    notebook = cells.read()
    (parameters,) = (
        x for x in notebook.cells if "parameters" in x.metadata.get("tags", [])
    )
    parameters.source += QUICK + "LATENT_DIM = 2\n"
    client = run_notebook.Client(notebook, folder)
    tell = lambda: json.loads(run_more(client, TELL))
    with client.setup_kernel():
        run(client)
        told, outputs = tell(), outputs_of(client)
        check_run(notebook, told)
        assert told["source"] == "sklearn"
        # backwards, names that are bound again further down have their later meaning
        shuffle = lambda code: random.Random(0).sample(code, len(code))
        for order in lambda code: code[::-1], shuffle:
            run_again(client, order)
            assert outputs_of(client) == outputs and tell() == told
        run(client)
        assert outputs_of(client) == outputs and tell() == told

        # the solutions of exercises, and other Python in the text
        text = "\n".join(x.source for x in notebook.cells if x.cell_type == "markdown")
        for source in re.findall(r"(?ms)^```python\n(.*?)^```", text):
            run_more(client, source)

        parameters.source += "LEARNING_RATE, LATENT_DIM = 0, 64\n"
        run(client)
        told = tell()
    check_run(notebook, told)
    start, *_, end = told["history"].values()
    assert start["loss"] == pytest.approx(end["loss"], rel=1e-5)
    (figures,) = (x for x in folder.iterdir() if x.name != cells.PATH.name)
    data = [x.get("data", {}) for own in outputs_of(client).values() for x in own]
    shown = {base64.b64decode(x["image/png"]) for x in data if "image/png" in x}
    assert {x.read_bytes() for x in figures.iterdir()} == shown
    assert not (tmp_path / "TFDS_DATA_DIR").exists()  # nothing was to be prepared


@pytest.mark.skipif(not DATA.exists(), reason="Fashion-MNIST is not in Keras' cache")
def test_it_runs_on_fashion_mnist(tmp_path):
    settings = QUICK + "TRAIN_IMAGES, TEST_IMAGES, LATENT_DIM = 2_000, 500, 16\n"
    notebook = cells.read()
    told = run_notebook.execute(notebook, tmp_path, settings)
    results = check_run(notebook, told)
    assert told["source"] == "keras.datasets"
    assert results["pixels"]["from the code"] == pytest.approx(190, abs=10)
    assert results["Autoencoder"]["mse"] < results["mean image"]["mse"]


def test_the_definitions_define_and_do_nothing_else(tmp_path, monkeypatch, capfd):
    """Running them takes no data, writes nothing, and says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket", None)
    nb = cells.define()
    assert (nb.results, nb.analyses, nb.figure_numbers) == ({},) * 3
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir()) and not nb.plt.get_fignums()


# Keras turns TensorFlow's variables into arrays in a way that NumPy 2 will change
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_python_of_the_readme_trains_saves_and_loads(nb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (cells.ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    nb.load_data = lambda: (nb.train_set, nb.test_set, nb.CLASS_NAMES, "digits")
    exec("\n".join(snippets), nb.__dict__)
    images = nb.test_set.images[5:10]
    np.testing.assert_array_equal(nb.again(images), nb.vae(images))


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_finds_nothing_to_improve(command):
    files = ["homework07.ipynb", "tests", "tools"]
    options = [*command.split(), "--no-cache", "--config", "tests/ruff.toml", *files]
    done = subprocess.run([sys.executable, "-m", "ruff", *options], cwd=cells.ROOT)
    assert done.returncode == 0
