"""What is committed: one full run of the code, and prose that tells its numbers."""

import ast
import base64
import io
import json
import math
import re
import subprocess
import tarfile
from types import SimpleNamespace

import cells
import nbformat
import pytest
import study
from conftest import numbers_in

# numbers in prose that were not measured: settings, worked examples, public facts
CONSTANTS = "0.5 −0.9 0.818 0.2 0.25 1.96 95% 0.0121 244.4".split()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of the project as committed, or as it is where git does not tell."""
    folder = tmp_path_factory.mktemp("project")
    try:
        command = ["git", "archive", "HEAD"]
        archive = subprocess.run(command, cwd=cells.ROOT, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    except (OSError, tarfile.TarError):  # no git, no repository, or somebody else's
        return cells.ROOT
    return folder if (folder / cells.PATH.name).exists() else cells.ROOT


@pytest.fixture(scope="module")
def stored(project):
    """Cells and outputs of the notebook, and the numbers of run and studies."""
    notebook = nbformat.read(project / cells.PATH.name, as_version=4)
    read = lambda name: json.loads((project / name).read_text(encoding="utf-8"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    return SimpleNamespace(
        notebook=notebook,
        code=code,
        prose=[cell for cell in notebook.cells if cell.cell_type == "markdown"],
        outputs=outputs,
        pictures=[o for o in outputs if "image/png" in o.get("data", {})],
        results=read("figures/results.json"),
        studies=read("tools/study.json"),
    )


# --- numbers


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
    """Whether one of `values` is `number` as far as its decimals go.

    What is "at least" a number was rounded down, and "at most" up.
    """
    text = number.rstrip("%").replace("−", "-").replace(",", "")
    decimals = len(text.partition(".")[2])
    scale = 10**decimals
    rounding = {"at least": math.floor, "at most": math.ceil}.get(bound.lower())
    for value in values:
        value *= 100 if number.endswith("%") else 1
        exact = rounding(value * scale) / scale if rounding else value
        if float(f"{exact:.{decimals}f}") == float(text):
            return True
    return False


@pytest.fixture(scope="module")
def quoted(stored):
    """The prose's numbers: (id of the cell, number, bound, values that it may be)."""
    results, studies = stored.results, stored.studies
    run = numbers_in([results["results"], results["intervals"]])
    names = "ablation", "standardised", "beta"
    parts = [row for name in names for row in studies[name]["runs"].values()]
    seeds = [seed["results"] for seed in studies["seeds"]["runs"].values()]
    networks = [seed[name] for seed in seeds for name in ("Autoencoder", "VAE")]
    parts += [{k: row[k] for k in row if k in parts[0]} for row in networks]
    found, heading, section = [], "", ""
    for cell in stored.prose:
        for heading in re.findall(r"^#+ .*", cell.source, flags=re.M):
            section = heading if re.match("##? ", heading) else section
        values = run
        if section.startswith("## 12"):
            values = run + numbers_in([parts, results["ablation"]])
        elif re.search("(?i)limits|seeds", heading):
            values = run + numbers_in(seeds)
        found += [(cell.id, *number, values) for number in find_numbers(cell.source)]
    return found


def test_every_measured_number_in_prose_is_one_of_the_results(quoted):
    strange = [(cell, n) for cell, n, *told in quoted if not is_told(n, *told)]
    assert not strange


def test_most_measured_numbers_in_prose_could_not_be_others(quoted):
    caught = []
    for _, number, *told in quoted:
        digits = number.rstrip("%")
        last = (int(digits[-1]) + 1) % 10
        changed = f"{digits[:-1]}{last}{number[len(digits) :]}"
        caught.append(changed not in CONSTANTS and not is_told(changed, *told))
    share = sum(caught) / len(caught)
    print(f"of {len(caught)} changed last digits, {share:.0%} are seen")
    assert len(caught) >= 20 and share >= 0.8


def test_the_readme_tells_the_numbers_and_versions_of_the_stored_run(project, stored):
    readme = (project / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in readme.splitlines() if line.startswith("|"))
    values, found = numbers_in(stored.results["results"]), list(find_numbers(table))
    assert len(found) >= 5
    assert not [number for number, bound in found if not is_told(number, bound, values)]
    assert all(version in readme for version in stored.results["versions"].values())
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (project / path).exists(), path


# --- one run, of this code


def test_the_stored_outputs_are_one_run_from_top_to_bottom(stored):
    counts = [cell.execution_count for cell in stored.code]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.get("name", output.output_type) for output in stored.outputs}
    assert not kinds & {"error", "stderr"}


def test_the_stored_results_are_those_of_the_stored_code(stored):
    results, parameters = stored.results, {}
    assert results["code_sha256"] == cells.hash_code(cells.code_cells(stored.notebook))
    assert results["source"] == "keras.datasets.fashion_mnist"
    exec("\n".join(cells.code_cells(stored.notebook, "parameters")), parameters)
    told = results["parameters"]
    assert told and told == {name: parameters[name] for name in told}


def test_the_studies_are_of_the_stored_code(project, stored, monkeypatch):
    studies = stored.studies
    whole = cells.hash_code(cells.code_cells(stored.notebook))
    monkeypatch.setattr(cells, "PATH", project / cells.PATH.name)
    recipe = cells.hash_definitions(study.RECIPE)
    assert studies["seeds"]["code_sha256"] == whole
    for name in "ablation", "standardised", "beta":
        assert studies[name]["code_sha256"] == recipe, name
    for name in "seeds", "ablation":
        runs = {run.rpartition("seed ")[2] for run in studies[name]["runs"]}
        assert runs == {"7", "8", "9"}, name


def test_the_typed_numbers_of_the_beta_study_are_its_results(stored):
    source = "\n".join(cell.source for cell in stored.code)
    typed = {}
    for part in re.findall(r"^BETA_STUDY \|?= ({.*?})", source, flags=re.M | re.S):
        typed |= ast.literal_eval(part)
    runs = stored.studies["beta"]["runs"]
    measured = {beta: runs[f"beta {beta}, seed 7"] for beta in study.BETAS}
    measured[1] = stored.studies["seeds"]["runs"]["seed 7"]["results"]["VAE"]
    assert set(typed) == set(measured)
    for beta, numbers in typed.items():
        for number, name in zip(numbers, ("kl", "reconstruction")):
            assert is_told(str(number), "", [measured[beta][name]]), (beta, name)


# --- figures


def test_the_folder_figures_holds_what_the_notebook_shows_and_nothing_else(
    project, stored
):
    files = {path.name: path.read_bytes() for path in project.glob("figures/*")}
    others = {"results.json", "round_trip.gif"}
    assert others < set(files)
    shown = [base64.b64decode(output.data["image/png"]) for output in stored.pictures]
    named = {name for name, content in files.items() if content in shown}
    assert set(files) == named | others
    assert len(named) == len(shown)


# --- what frontends need


def test_headings_stand_first_in_their_cells_one_each(stored):
    for cell in stored.prose:
        lines = re.sub(r"```.*?```", "", cell.source, flags=re.S).splitlines()
        headings = [i for i, line in enumerate(lines) if re.match(r"#+ ", line)]
        assert headings in ([], [0]), cell.id


def test_links_name_their_section_and_lead_to_the_heading_of_a_cell(stored):
    first_lines = (cell.source.partition("\n")[0] for cell in stored.prose)
    targets = {re.sub(r"^#+ ", "", line).replace(" ", "-") for line in first_lines}
    text = "\n".join(cell.source for cell in stored.prose)
    links = re.findall(r"\[([^]]+)\]\(#([^)]+)\)", text)
    assert links
    for words, target in links:
        assert target in targets and "section" in words, (words, target)
    assert "](#" not in str(stored.outputs)


def test_formulas_keep_the_rules_of_the_renderers(stored):
    for cell in stored.prose:
        for line in cell.source.splitlines():
            assert "$$" not in line or line.strip() == "$$", cell.id
        for formula in re.findall(r"\$\$(.*?)\$\$", cell.source, flags=re.S):
            lines = [line.strip() for line in formula.splitlines()]
            assert not any(line.startswith("-") for line in lines), cell.id
        maths = re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", cell.source, flags=re.S)
        assert not [formula for formula in maths if "|" in formula], cell.id


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
