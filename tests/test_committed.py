"""What is committed: one full run of the code, and prose that tells its numbers."""

import ast
import base64
import json
import math
import re
import subprocess
from types import SimpleNamespace

import cells
import nbformat
import numpy as np
import pytest
import study
from conftest import numbers_in

# numbers in prose that were not measured: settings, worked examples, public facts
CONSTANTS = "0.001 0.25 0.3 0.5 0.7 0.818 −0.9 95% 0.0121 244.4".split()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of the project as committed, or as it is where git does not tell."""
    folder = tmp_path_factory.mktemp("project") / "clone"
    command = ["git", "clone", "--quiet", str(cells.ROOT), str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return cells.ROOT
    return folder


@pytest.fixture(scope="module")
def stored(project):
    """Cells and outputs of the notebook, and the numbers of run and studies."""
    notebook = nbformat.read(project / cells.PATH.name, as_version=4)
    read = lambda name: json.loads((project / name).read_text(encoding="utf-8"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    run, studies = read("figures/results.json"), read("tools/study.json")
    names = {"notebook": notebook, "code": code, "prose": prose, "outputs": outputs}
    return SimpleNamespace(run=run, studies=studies, **names)


def find_numbers(text):
    """Yield the measured numbers and percentages of markdown, and the words before."""
    # not in code, maths, targets of links, addresses and tags
    dropped = r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|https?:\S+|<[^>]*>"
    text = re.sub(dropped, " ", text, flags=re.S)
    number = r"(?:(?<!\d)−)?(?<![\d.,])(?:(?:\d[\d,]*)?\.\d+(?!\.?\d)|\d+(?= ?%))"
    for match in re.finditer(number, text):
        per_cent = re.match(r" ?(%|(percentage )?points)", text[match.end() :])
        found = match[0] + ("%" if per_cent else "")
        if found not in CONSTANTS:
            yield found, " ".join(text[: match.start()].split()[-2:])


def is_told(number, bound, values):
    """Whether one of `values` rounds to `number`: down after "at least", for one."""
    text = number.rstrip("%").replace("−", "-").replace(",", "")
    decimals = len(text.partition(".")[2])
    scale = 10**decimals * (100 if number.endswith("%") else 1)
    rounding = {"at least": math.floor, "at most": math.ceil}.get(bound.lower(), float)
    told = (rounding(value * scale) / 10**decimals for value in values)
    return any(float(f"{value:.{decimals}f}") == float(text) for value in told)


def test_every_measured_number_in_prose_is_one_of_the_results(stored):
    studies = [run["results"] for run in stored.studies["seeds"]["runs"].values()]
    studies += [stored.studies.get(name) for name in ("ablation", "beta")]
    more = {"## 4 ": stored.run["history"], "## 11": studies, "## 12": studies}
    section, strange, seen = "", [], []
    for cell in stored.prose:
        section = (re.findall("^##? .*", cell.source, flags=re.M) or [section])[0]
        run = stored.run["results"], stored.run["parameters"]
        values = numbers_in([*run, more.get(section[:5], [])])
        for number, words in find_numbers(cell.source):
            if not is_told(number, words, values):
                strange.append(f"cell {cell.id}: {words} {number}")
            # the same with another last digit is no result, mostly
            digits = number.rstrip("%")
            changed = digits[:-1] + str((int(digits[-1]) + 1) % 10)
            changed += number.removeprefix(digits)
            seen.append(
                changed not in CONSTANTS and not is_told(changed, words, values)
            )
    assert not strange
    assert len(seen) >= 20 and np.mean(seen) >= 0.8


def test_the_opening_compares_what_its_rows_say(stored):
    measures = {"squared error": "mse", "loss": "loss", "10-NN": "knn"}
    row = r"^\| *(autoencoder|VAE),.*?(squared error|loss|10-NN).*?\| *([\d.]+%?)"
    found = re.findall(row, stored.prose[0].source, flags=re.M)
    assert len(found) >= 4
    for model, measure, number in found:
        results = stored.run["results"][model.replace("auto", "Auto")]
        assert is_told(number, "", [results[measures[measure]]]), (model, measure)


def test_the_readme_tells_the_numbers_and_versions_of_the_stored_run(project, stored):
    readme = (project / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in readme.splitlines() if line.startswith("|"))
    values, found = numbers_in(stored.run["results"]), list(find_numbers(table))
    assert len(found) >= 5
    assert not [number for number, words in found if not is_told(number, words, values)]
    seconds = (f"{stored.run['seconds'][name]:.0f}" for name in ("Autoencoder", "VAE"))
    for told in *stored.run["versions"].values(), *seconds:
        assert re.search(rf"\b{re.escape(told)}\b", readme), told
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (project / path).exists(), path


def test_the_stored_outputs_and_results_are_of_one_run_of_the_stored_code(stored):
    counts = [cell.execution_count for cell in stored.code]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.get("name", output.output_type) for output in stored.outputs}
    assert not kinds & {"error", "stderr"}
    code_sha256 = cells.hash_code(cells.code_cells(stored.notebook))
    assert stored.run["code_sha256"] == code_sha256
    assert stored.run["parameters"] == cells.read_parameters(stored.notebook)
    assert stored.run["source"] == "keras.datasets"


def test_the_code_trains_like_the_code_that_was_studied(stored):
    before, nb = stored.studies["fingerprint"], cells.define(stored.notebook)
    now = study.take_fingerprint(nb)
    assert study.is_same(now, before["losses"]), (now, before["losses"])
    told = before["parameters"]
    assert told == {name: getattr(nb, name) for name in told}


def test_the_studies_have_their_seeds_and_the_parameters_of_the_stored_run(stored):
    for name in "seeds", "ablation", "beta":
        part, parameters = stored.studies[name], stored.run["parameters"]
        seeds = {run.rpartition("seed ")[2] for run in part["runs"]}
        assert seeds == ({"7"} if name == "beta" else {"7", "8", "9"}), name
        own = set(study.OF_TRAINING if name != "seeds" else parameters) - {"SEED"}
        assert part["parameters"] == {name: parameters[name] for name in own}, name


def test_the_runs_with_other_seeds_measured_the_same(stored):
    results, runs = stored.run["results"], stored.studies["seeds"]["runs"]
    measures = lambda results: {name: set(row) for name, row in results.items()}
    for run in runs.values():
        assert run["source"] == stored.run["source"]
        assert measures(run["results"]) == measures(results)
    command = "python tools/study.py seeds --from figures/results.json"
    assert runs["seed 7"]["results"] == results, command


def test_the_typed_numbers_of_the_beta_study_are_its_results(stored):
    source = "\n".join(cell.source for cell in stored.code)
    parts = re.findall(r"^BETA_STUDY \|?= ({.*?})", source, flags=re.M | re.S)
    typed = {beta: x for part in parts for beta, x in ast.literal_eval(part).items()}
    runs = stored.studies["beta"]["runs"]
    measured = {beta: runs[f"beta {beta}, seed 7"] for beta in study.BETAS}
    measured[1] = stored.studies["seeds"]["runs"]["seed 7"]["results"]["VAE"]
    rows = {beta: (row["kl"], row["from a draw"]) for beta, row in measured.items()}
    assert typed == {
        beta: pytest.approx(row, abs=0.00501) for beta, row in rows.items()
    }


def test_the_folder_figures_holds_what_the_notebook_shows_only(project, stored):
    files = {path.name: path.read_bytes() for path in project.glob("figures/*")}
    assert files.pop("results.json") and files.pop("round_trip.gif")
    data = [output.get("data", {}) for output in stored.outputs]
    shown = [base64.b64decode(x["image/png"]) for x in data if "image/png" in x]
    assert len(files) == len(shown)
    assert not [name for name, content in files.items() if content not in shown]


def test_headings_stand_first_in_their_cells_and_links_lead_to_them(stored):
    targets, links = set(), []
    for cell in stored.prose:
        lines = re.sub(r"```.*?```", "", cell.source, flags=re.S).splitlines()
        assert not [line for line in lines[1:] if re.match(r"#+ ", line)], cell.id
        targets.add(re.sub(r"^#+ ", "", lines[0]).replace(" ", "-"))
        links += re.findall(r"\[([^]]+)\]\(#([^)]+)\)", cell.source)
    assert links
    for words, target in links:
        assert target in targets and "section" in words, (words, target)
    assert "](#" not in str(stored.outputs)


def test_formulas_keep_the_rules_of_the_renderers(stored):
    for cell in stored.prose:
        text = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.S)
        assert not re.search(r"\S *\$\$|\$\$ *\S", text), cell.id  # lines of their own
        for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", text, flags=re.S):
            assert "|" not in formula and not re.search(r"\n\s*-", formula), cell.id


def test_folded_cells_are_folded_in_every_frontend(stored):
    for cell in stored.code:
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == (cell.metadata.get("cellView") == "form"), cell.id
        assert hidden == ("hide-input" in cell.metadata.get("tags", [])), cell.id
        assert hidden == cell.source.startswith("# @title "), cell.id


def test_the_stored_notebook_is_well_formed_and_small(project, stored):
    nbformat.validate(stored.notebook)
    text = (project / cells.PATH.name).read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert "widget-view" not in text and "widgets" not in stored.notebook.metadata
    # else ruff reads nothing
    assert stored.notebook.metadata.language_info.name == "python"
    assert not re.search(r"/(home|root|work|Users)/", text)
