"""The notebook as a whole: it runs anywhere, and any cell again alone."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cells
import nbformat
import numpy as np
import pytest
import run_notebook
from conftest import numbers_in

QUICK = """
EPOCHS, TRAIN_IMAGES, TEST_IMAGES, CURVE_IMAGES, MAP_IMAGES = 1, 320, 100, 100, 50
CLASSIFIER_EPOCHS, SAMPLES, ABLATION_STEPS = 1, 100, 5
"""
HOSTILE = "image.origin: lower\nsavefig.format: svg\ntext.usetex: True\n"
HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
DATA = HOME / "datasets" / "fashion-mnist" / "train-images-idx3-ubyte.gz"


def find(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def run(client, indices=None):
    """Run all cells, or those with `indices`, in the kernel of `client`."""
    for i in range(len(client.nb.cells)) if indices is None else indices:
        # otherwise the client would look for outputs that are no more
        client.clear_display_id_mapping(i)
        client.execute_cell(client.nb.cells[i], i)


def comparable(outputs):
    """Return outputs without seconds, and the line of a training that is finished."""
    shown = []
    for output in outputs:
        text = output.get("text", "")
        # the last column of a training's table is its seconds
        text = re.sub(r"^( +\d+( +[\d.]+){3}) +\d+$", r"\1", text, flags=re.M)
        text = re.sub(r"^.*\n(?=  step)", "", text)
        if text or output.output_type != "stream":
            shown.append((text, output.get("data"), output.get("metadata")))
    return sorted(shown, key=str)  # text that is added may change their order


def find_changes(client):
    """Run every cell again alone, in a shuffled order; return what differs then."""
    shown = lambda: {c.id: comparable(c.get("outputs", [])) for c in client.nb.cells}
    defining = find(client.nb, "definitions") + find(client.nb, "parameters")
    code = [x for x in enumerate(client.nb.cells) if x[1].cell_type == "code"]
    again = [i for i, cell in code if cell not in defining]
    assert len(again) > 30
    random.Random(0).shuffle(again)
    before = shown()
    run(client, again)
    after = shown().items()
    return {name: [x[0] for x in own] for name, own in after if own != before[name]}


def check_run(notebook, folder):
    """Check what holds for outputs and numbers of every run; return results.json."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [output.get("name", output.output_type) for output in outputs]
    assert not [o for o, k in zip(outputs, kinds) if k in ("error", "stderr")]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) >= 16
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    measured, vae = results["results"], results["results"]["VAE"]
    assert np.isfinite(numbers_in(measured)).all()
    assert vae["loss"] == pytest.approx(vae["reconstruction"] + vae["kl"])
    assert sum(vae["kl_by_dimension"]) == pytest.approx(vae["kl"], rel=1e-3)
    assert vae["mean_term"] + vae["variance_term"] == pytest.approx(vae["kl"], rel=1e-3)
    # the more images, the less certain is the own one
    assert 0 < vae["own_image_mean"] < vae["own_image_mean_of_tenth"] <= 1
    assert len(results["ablation"]) == 4
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
    notebook, figures = cells.read(), folder / "figures-stand-in"
    (parameters,) = find(notebook, "parameters")
    parameters.source += QUICK + "LATENT_DIM = 2\n"
    options = {"timeout": None, "coalesce_streams": True, "allow_errors": True}
    options["resources"] = {"metadata": {"path": str(folder)}}
    client = run_notebook.Client(notebook, **options)
    with client.setup_kernel():
        run(client)
        first = check_run(notebook, figures)
        assert first["source"] == "sklearn.load_digits"
        assert first["parameters"]["LATENT_DIM"] == 2
        assert find_changes(client) == {}
        again = check_run(notebook, figures)
        assert again["results"] == first["results"]
        assert again["ablation"] == first["ablation"]

        # a run that learns nothing tells so, and its own time
        parameters.source += "LEARNING_RATE = 0\n"
        started = time.time()
        run(client)
        elapsed = time.time() - started
    second = check_run(notebook, figures)
    assert second["parameters"] == first["parameters"] | {"LEARNING_RATE": 0}
    assert second["seconds"]["total"] < elapsed
    for start, *_, end in second["history"].values():
        assert start["test"] == pytest.approx(end["test"], rel=1e-5)
    assert {x.name for x in folder.iterdir()} == {cells.PATH.name, figures.name}
    assert not (tmp_path / "TFDS_DATA_DIR").exists()  # nothing was to be prepared


@pytest.mark.skipif(not DATA.exists(), reason="Fashion-MNIST is not in Keras' cache")
def test_it_runs_on_fashion_mnist(tmp_path):
    settings = QUICK + "TRAIN_IMAGES, LATENT_DIM = 2_000, 16\n"
    notebook = run_notebook.execute(cells.read(), tmp_path, settings)
    results = check_run(notebook, tmp_path / "figures")
    assert results["source"] == "keras.datasets.fashion_mnist"
    measured = results["results"]
    assert measured["pixels"]["cross_entropy"] == pytest.approx(190, abs=10)
    assert measured["Autoencoder"]["mse"] < measured["mean image"]["mse"]


def test_the_definitions_define_and_do_nothing_else(tmp_path, monkeypatch, capfd):
    """Running them takes no data, writes nothing, and says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket", None)
    nb = cells.define()
    assert (nb.results, nb.intervals, nb.trainings, nb.figure_numbers) == ({},) * 4
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir()) and not nb.plt.get_fignums()


def test_the_python_of_the_readme_runs(nb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (cells.ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    assert snippets
    nb.load_data = lambda: (nb.train_set, nb.test_set, nb.CLASS_NAMES, "digits")
    exec("\n".join(snippets), nb.__dict__)


GREETING = """WARNING: All log messages before absl::InitializeLog() is called …
I0000 00:00:17.9 6424 port.cc:153] oneDNN custom operations are on.
2026-01-01 00:00:00.1: I tensorflow/core/cpu_feature_guard.cc:210] This binary …
To enable the following instructions: AVX2 FMA, in other operations, …
"""


def test_the_runner_drops_the_greeting_keeps_warnings_and_copes_with_windows(tmp_path):
    source = "import sys\nprint('a → b')\nprint('mind!', file=sys.stderr)"
    source += f"\nprint({GREETING!r}, end='', file=sys.stderr)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata.kernelspec = cells.read().metadata.kernelspec
    path = tmp_path / "tiny.ipynb"
    nbformat.write(notebook, path)
    program = (
        f"import pathlib, run_notebook as r; r.NOTEBOOK = pathlib.Path({str(path)!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(cells.ROOT / "tools")}
    environment["PYTHONIOENCODING"] = "cp1252"  # Windows' when redirected
    command = [sys.executable, "-c", program + "; r.main()"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode("cp1252")
    (cell,) = nbformat.read(path, as_version=4).cells
    shown = {output.name: output.text for output in cell.outputs}
    assert shown == {"stdout": "a → b\n", "stderr": "mind!\n"}
    assert "a → b" in path.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_finds_nothing_to_improve(command):
    files = ["homework07.ipynb", "tests", "tools"]
    options = [*command.split(), "--no-cache", "--config", "tests/ruff.toml", *files]
    done = subprocess.run([sys.executable, "-m", "ruff", *options], cwd=cells.ROOT)
    assert done.returncode == 0
