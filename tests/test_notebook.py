"""The notebook as a whole: it runs anywhere, and what is committed is one full run of its code."""

import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import cells
import nbformat
import pytest
from run_notebook import execute
from test_data import real

QUICK = "EPOCHS, TRAIN_IMAGES, TEST_IMAGES, MAP_IMAGES = 1, 1500, 600, 300\n"
QUICK += "PAIRS, SAMPLES, JUDGE_EPOCHS = 20, 300, 1\n"


def twice(notebook):
    """Repeat every code cell right after itself, but for the parameters."""
    repeated = []
    for cell in notebook.cells:
        repeated.append(cell)
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            repeated.append(nbformat.v4.new_code_cell(cell.source))
    notebook.cells = repeated
    return notebook


def run(folder, parameters, change=lambda notebook: notebook):
    """Run a copy of the notebook alone in `folder`; return it and its results."""
    folder.mkdir()
    shutil.copy(cells.PATH, folder)
    notebook = change(nbformat.read(folder / cells.PATH.name, 4))
    ran = execute(notebook, folder, parameters)
    written = list(folder.glob("figures*/results.json"))
    assert {p.name for p in folder.iterdir()} == {cells.PATH.name, written[0].parent.name}
    return ran, json.loads(written[0].read_text())


def outputs(ran):
    return [output for cell in ran.cells for output in cell.get("outputs", [])]


def check_outputs(ran):
    """What holds for the outputs of every run."""
    assert not [o for o in outputs(ran) if o.output_type == "error" or o.get("name") == "stderr"]
    pictures = [o for o in outputs(ran) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 14
    assert all(o.metadata.get("image/png", {}).get("alt") for o in pictures)
    assert "widgets" not in ran.metadata and "widget-view" not in nbformat.writes(ran)


def check_results(results):
    assert len(results["claims"]) >= 10
    assert {row["holds"] for row in results["claims"]} <= {True, False, None}
    vae = results["vae"]
    assert vae["negative_elbo_nats"] == pytest.approx(vae["test_bce_nats"] + vae["kl_nats"])


def test_it_runs_without_network_on_the_stand_in(tmp_path, monkeypatch):
    for name in ("KERAS_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # a folder named by somebody else, another size of the code, a run that learns nothing, and a
    # reader who runs every cell twice
    parameters = QUICK + "LATENT_DIM, LEARNING_RATE = 2, 0\n"
    ran, results = run(tmp_path / "Übung 7 (neu)", parameters, twice)
    check_outputs(ran)
    check_results(results)
    assert results["dataset"] == "digits" and results["seconds"]["total"] < 1000
    assert "Stand-in data" in str(ran.cells[1].outputs)  # the abstract
    assert (tmp_path / "Übung 7 (neu)/figures-stand-in/headline.png").exists()
    verdicts = {row["claim"]: row["holds"] for row in results["claims"]}
    assert verdicts["Autoencoder: smaller squared error than PCA"] is False


@real
def test_it_runs_on_fashion_mnist_without_network(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    ran, results = run(tmp_path / "run", QUICK)
    check_outputs(ran)
    check_results(results)
    assert results["dataset"] == "fashion_mnist" and results["parameters"]["EPOCHS"] == 1
    assert results["baselines"]["bce_floor_nats"] == pytest.approx(190, abs=3)
    assert results["autoencoder"]["test_mse"] < results["baselines"]["mean_image_mse"]


# --- what is committed


@pytest.fixture(scope="module")
def stored():
    return nbformat.reads(cells.committed("homework07.ipynb"), as_version=4)


@pytest.fixture(scope="module")
def results():
    return json.loads(cells.committed("figures/results.json"))


def code(ran):
    return [cell for cell in ran.cells if cell.cell_type == "code"]


def test_the_stored_outputs_are_one_run_from_top_to_bottom(stored):
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    check_outputs(stored)


def test_the_stored_results_are_those_of_the_stored_code(stored, results):
    source = "\n".join(cell.source.strip() for cell in code(stored))
    assert results["code_sha256"] == hashlib.sha256(source.encode()).hexdigest()
    assert results["dataset"] == "fashion_mnist" and results["parameters"]["EPOCHS"] == 10
    assert len(cells.committed("figures/results.json")) < 100_000


def test_the_stored_notebook_shows_its_results(stored, results):
    shown = str(code(stored)[0].outputs)
    assert f"{results['autoencoder']['test_mse']:.4f}" in shown
    assert f"{results['vae']['negative_elbo_nats']:.1f}" in shown


def test_the_stored_notebook_is_well_formed(stored):
    nbformat.validate(stored)
    assert (stored.nbformat, stored.nbformat_minor) == (4, 5)
    assert stored.metadata.kernelspec.name == "python3"
    assert stored.metadata.language_info.name == "python"
    assert len(cells.committed("homework07.ipynb").encode()) < 1_500_000
    assert not re.search(r"/(home|root|work|Users)/", cells.committed("homework07.ipynb"))


def test_formulas_keep_the_rules_of_the_renderers(stored):
    for cell in stored.cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            assert "$$" not in line or line.strip() == "$$"
        for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", cell.source, flags=re.S):
            assert "|" not in formula, formula


def test_links_of_the_notebook_lead_somewhere(stored):
    text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    targets = set(re.findall(r'<a id="([^"]+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= targets


def test_the_readme_tells_the_numbers_of_the_stored_run(results):
    readme = cells.committed("README.md")
    table = [row for row in readme.splitlines() if row.startswith("|")]
    rows = {row.split("|")[1].strip(): row for row in reversed(table)}  # the first of each name
    baselines, ae, vae = results["baselines"], results["autoencoder"], results["vae"]
    expected = {
        "mean image": [
            f"{baselines['mean_image_mse']:.4f}",
            f"{baselines['mean_image_bce_nats']:.1f}",
        ],
        "PCA, 10 numbers": [f"{baselines['pca_mse']:.4f}", f"{baselines['pca_knn_accuracy']:.3f}"],
        "autoencoder": [
            f"{ae['test_mse']:.4f}",
            f"{ae['test_bce_nats']:.1f}",
            f"{ae['knn_accuracy']:.3f}",
        ],
        "VAE": [
            f"{vae['test_mse']:.4f}",
            f"{vae['negative_elbo_nats']:.1f}",
            f"{vae['knn_accuracy']:.3f}",
        ],
    }
    for name, numbers in expected.items():
        assert all(f" {number} " in rows[name] for number in numbers), (name, numbers)
    assert f"TensorFlow {results['versions']['tensorflow']}" in readme
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert cells.ROOT.joinpath(path).exists(), path


# --- form


def ruff(*arguments):
    config = str(Path(__file__).with_name("ruff.toml"))
    command = [sys.executable, "-m", "ruff", *arguments, "--config", config, "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, cwd=cells.ROOT)


NARROW = ("homework07.ipynb", "--config", "line-length=69")  # what a page of the report shows


@pytest.mark.parametrize("files", [NARROW, ("tests",)], ids=["notebook", "tests"])
@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=["check", "format"])
def test_ruff_finds_nothing_to_improve(command, files):
    result = ruff(*command, *files)
    assert result.returncode == 0, result.stdout + result.stderr


def test_cells_are_short():
    sizes = [
        len([line for line in c.source.splitlines() if line.strip()]) for c in code(cells.read())
    ]
    assert statistics.median(sizes) <= 10 and max(sizes) <= 35


def test_ruff_reads_the_notebook(tmp_path):
    spoilt = cells.read()
    spoilt.cells[-1].source += "\nimport antigravity"
    nbformat.write(spoilt, tmp_path / "spoilt.ipynb")
    result = ruff("check", str(tmp_path / "spoilt.ipynb"))
    assert "antigravity" in result.stdout and result.returncode == 1


def test_the_definitions_define_and_do_nothing_else(tmp_path):
    """Running them takes no data, writes nothing, and says nothing."""
    program = "import cells; n = cells.define(); print(len(n.claims), n.FIGURES)"
    environment = os.environ | {
        "KERAS_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == "0 figures", done.stderr
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.gz"))
