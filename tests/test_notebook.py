"""The notebook as a whole: it runs anywhere, and any cell again alone."""

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
from nbclient import NotebookClient
from test_data import real

QUICK = """
EPOCHS, TRAIN_IMAGES, TEST_IMAGES, CURVE_IMAGES, MAP_IMAGES = 1, 1000, 300, 200, 200
PAIRS, SAMPLES, JUDGE_EPOCHS, CORNER_IMAGES, CORNER_EPOCHS = 20, 300, 1, 300, 1
"""


class Session:
    """The notebook in a kernel that stays, so that its cells can be run again."""

    def __init__(self, folder, parameters, notebook=None):
        self.notebook, self.folder = notebook or cells.read(), folder
        (self.parameters,) = [
            cell
            for cell in self.notebook.cells
            if "parameters" in cell.metadata.get("tags", [])
        ]
        self.parameters.source += "\n" + parameters
        for cell in self.notebook.cells:  # the same in less time
            cell.source = cell.source.replace("(steps=100)", "(steps=20)")
            cell.source = cell.source.replace("draws=200)", "draws=20)")
        self.client = NotebookClient(
            self.notebook,
            timeout=None,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )

    def run(self, indices=None):
        """Run all cells, or those with `indices`."""
        for i in range(len(self.notebook.cells)) if indices is None else indices:
            # otherwise the client would look for outputs that are no more
            self.client.clear_display_id_mapping(i)
            self.client.execute_cell(self.notebook.cells[i], i)

    def results(self):
        (path,) = self.folder.glob("figures*/results.json")
        return json.loads(path.read_text())

    def shown(self):
        return [comparable(cell.get("outputs", [])) for cell in self.notebook.cells]


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def failures(outputs):
    return [
        output
        for output in outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def check_outputs(notebook):
    """What holds for the outputs of every run."""
    assert not failures(outputs(notebook))
    pictures = [o for o in outputs(notebook) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 16
    assert all(o.metadata["image/png"]["alt"] == o.data["text/plain"] for o in pictures)
    assert "widgets" not in notebook.metadata


def numbers(value):
    """Yield all numbers in nested results."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def check_results(results):
    assert len(results["claims"]) >= 8
    for row in results["claims"]:
        assert row["holds"] in (True, False, None) and len(row["interval"]) == 2
    assert np.isfinite(list(numbers(results))).all()
    measured = results["measured"]
    mean = lambda measure, name: measured[measure][name]
    both = mean("reconstruction", "VAE") + mean("kl", "VAE")
    assert mean("loss", "VAE") == pytest.approx(both)
    by_dimension = measured["kl_by_dimension"].values()
    assert mean("kl", "VAE") == pytest.approx(sum(by_dimension), rel=1e-3)
    # of training images' draws the one, of test images' clouds the other
    information = mean("information", "clouds")
    assert information <= mean("log_images", "clouds") + 1e-6
    assert mean("importance_weighted", "VAE") >= mean("elbo", "VAE")
    assert mean("gap", "VAE") > 0
    assert set(measured["spread"]) == {"plain", "noise", "leash", "VAE"}


def comparable(outputs):
    """Return outputs without times, which differ from run to run."""
    shown = []
    for output in outputs:
        text = output.get("text") or json.dumps(
            output.get("data"), ensure_ascii=False, sort_keys=True
        )
        text = re.sub(r"\d+(\.\d+)? (seconds|minutes)", "some time", text)
        # the last column of a training's table is its seconds
        text = re.sub(r"^( +\d+( +[\d.]+){3}) +\d+$", r"\1", text, flags=re.M)
        shown.append((output.output_type, text, json.dumps(output.get("metadata"))))
    return shown


def is_rerun(cell):
    tags = {"definitions", "parameters"} & set(cell.metadata.get("tags", []))
    return cell.cell_type == "code" and not tags


def check_reruns(session):
    """Run every cell again alone, in a shuffled order: nothing changes."""
    before = session.shown()
    ids = [cell.id for cell in session.notebook.cells]
    again = [i for i, cell in enumerate(session.notebook.cells) if is_rerun(cell)]
    assert len(again) > 30
    random.Random(0).shuffle(again)
    changed = []
    for i in again:
        session.run([i])
        if session.shown() != before:
            changed += [(ids[i], "changes what is shown by")]
            changed[-1] += tuple(
                name for name, a, b in zip(ids, session.shown(), before) if a != b
            )
    assert not changed


def offline(monkeypatch, tmp_path, empty_caches):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("KERAS_HOME", "TFDS_DATA_DIR") if empty_caches else ():
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()


def test_on_the_stand_in_it_runs_and_any_cell_again_and_all_with_another_parameter(
    tmp_path, monkeypatch
):
    """In a folder named by somebody else, with codes of 2 numbers."""
    offline(monkeypatch, tmp_path, empty_caches=True)
    folder = tmp_path / "Übung 7 (neu)"
    folder.mkdir()
    shutil.copy(cells.PATH, folder)
    session = Session(folder, QUICK + "LATENT_DIM = 2\n")
    with session.client.setup_kernel():
        session.run()
        check_outputs(session.notebook)
        results = session.results()
        check_results(results)
        assert results["source"] == "load_digits"
        front = str(session.notebook.cells[1].outputs)
        assert "Stand-in data" in front and "Other parameters" in front
        assert (
            "LATENT_DIM" in front
            and f"{results['measured']['mse']['VAE']:.4f}" in front
        )
        check_reruns(session)

        # a run that learns nothing tells so
        session.parameters.source += "LEARNING_RATE = 0\n"
        session.run()
    check_outputs(session.notebook)
    results = session.results()
    check_results(results)
    assert results["parameters"]["LEARNING_RATE"] == 0
    assert "LEARNING_RATE" in str(session.notebook.cells[1].outputs)
    errors = results["measured"]["mse"]
    for name in ("Autoencoder", "VAE"):
        assert errors[name] > errors["PCA-2"]
        first, *_, last = results["history"][name]
        assert first["test"] == pytest.approx(last["test"], rel=1e-5)
    left = {path.name for path in folder.iterdir()}
    assert left == {cells.PATH.name, "figures-stand-in"}


@real
def test_it_runs_on_fashion_mnist_with_codes_of_32_numbers(tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path, empty_caches=False)
    session = Session(tmp_path, QUICK + "LATENT_DIM = 32\n")
    with session.client.setup_kernel():
        session.run()
    check_outputs(session.notebook)
    results = session.results()
    check_results(results)
    assert results["source"] == "keras.datasets.fashion_mnist"
    assert "Stand-in" not in str(session.notebook.cells[1].outputs)
    measured = results["measured"]
    assert measured["cross_entropy"]["pixels"] == pytest.approx(190, abs=5)
    assert measured["mse"]["Autoencoder"] < measured["mse"]["mean image"]


# --- form


def ruff(*arguments):
    config = str(Path(__file__).with_name("ruff.toml"))
    command = [
        sys.executable,
        "-m",
        "ruff",
        *arguments,
        "--config",
        config,
        "--no-cache",
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=cells.ROOT)


@pytest.mark.parametrize("files", ["homework07.ipynb", "tests", "tools"])
@pytest.mark.parametrize(
    "command", [("check",), ("format", "--check")], ids=["check", "format"]
)
def test_ruff_finds_nothing_to_improve(command, files):
    result = ruff(*command, files)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_reads_the_notebook(tmp_path):
    spoilt = cells.read()
    spoilt.cells[-1].source += "\nimport antigravity"
    nbformat.write(spoilt, tmp_path / "spoilt.ipynb")
    result = ruff("check", str(tmp_path / "spoilt.ipynb"))
    assert "antigravity" in result.stdout and result.returncode == 1


def test_the_definitions_define_and_do_nothing_else(tmp_path):
    """Running them takes no data, writes nothing, and says nothing."""
    program = "import cells; n = cells.define(); print(len(n.verdicts), n.FIGURES)"
    tools = str(cells.ROOT / "tools")
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "PYTHONPATH": tools}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == "0 figures", done.stderr
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.gz"))
