"""What is committed: one full run of the code, and prose that tells its numbers."""

import hashlib
import json
import re

import cells
import nbformat
import pytest

# numbers in prose that were not measured: parameters, examples, definitions
CONSTANTS = set(
    "0.1 0.5 0.25 1.386 0.318 0.818 −0.9 0.99 5 1.61 1.10 95 % .01 .5 .6".split()
)


@pytest.fixture(scope="module")
def stored():
    return nbformat.reads(cells.committed("homework07.ipynb"), as_version=4)


@pytest.fixture(scope="module")
def results():
    return json.loads(cells.committed("figures/results.json"))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def plain(text):
    """Return `text` without code, maths, link targets and tables."""
    text = re.sub(
        r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", " ", text, flags=re.S
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def value_at(path, results):
    """Return what stands in results.json at a/b/c, or in the study at study›a›b›c."""
    node, keys = results, path.split("/")
    if path.startswith("study›"):
        node, keys = (
            json.loads(cells.committed("tools/study.json")),
            path.split("›")[1:],
        )
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


def test_the_stored_outputs_are_one_run_from_top_to_bottom(stored):
    counts = [cell.execution_count for cell in code(stored)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code(stored) for output in cell.outputs]
    assert not [
        o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]


def test_the_stored_results_are_those_of_the_stored_code(stored, results):
    source = "\n".join(cell.source.strip() for cell in code(stored))
    assert results["code_sha256"] == hashlib.sha256(source.encode()).hexdigest()
    assert (
        results["source"] == "keras.datasets.fashion_mnist"
        and results["parameters"]["EPOCHS"] == 10
    )


def test_every_figure_is_described_in_both_places(stored):
    pictures = [
        output
        for cell in code(stored)
        for output in cell.outputs
        if {"image/png", "image/gif"} & set(output.get("data", {}))
    ]
    assert len(pictures) >= 16
    for output in pictures:
        kind = next(k for k in output.data if k.startswith("image/"))
        assert output.metadata[kind]["alt"] == output.data["text/plain"]
        assert (
            len(output.data["text/plain"]) > 10 and "<" not in output.data["text/plain"]
        )


def test_every_measured_number_in_prose_is_one_of_the_results(stored, results):
    quoted = json.loads(cells.committed("tests/quoted.json"))
    for cell in prose(stored):
        told = {text for text, _, _ in quoted.get(cell.id, [])}
        found = re.findall(r"−?\d*\.\d+|\d+(?:\.\d+)?(?= ?%)", plain(cell.source))
        strange = [n for n in found if n not in CONSTANTS and not {n, n + "%"} & told]
        assert not strange, (cell.id, strange)
    sources = {cell.id: cell.source for cell in prose(stored)}
    for cell_id, numbers in quoted.items():
        for text, path, form in numbers:
            assert text in sources[cell_id], (cell_id, text)
            assert format(value_at(path, results), form).replace("-", "−") == text, (
                cell_id,
                path,
            )


def test_the_record_alone_would_not_pass_with_another_number(stored, results):
    quoted = json.loads(cells.committed("tests/quoted.json"))
    text, path, form = quoted["curves-vae-reading"][0]
    assert format(value_at(path, results) + 1, form) != text


def test_headings_stand_first_in_their_cells_one_each(stored):
    for cell in prose(stored):
        lines = re.sub(r"```.*?```", "", cell.source, flags=re.S).splitlines()
        headings = [i for i, line in enumerate(lines) if re.match(r"#+ ", line)]
        assert headings in ([], [0]), cell.id


def test_links_name_their_section_and_lead_to_its_heading(stored):
    headings = {
        re.sub(r"^#+ ", "", cell.source.splitlines()[0]).replace(" ", "-")
        for cell in prose(stored)
        if cell.source.startswith("#")
    }
    links = [
        link
        for cell in prose(stored)
        for link in re.findall(r"\[([^]]+)\]\(#([^)]+)\)", cell.source)
    ]
    assert links
    for text, target in links:
        assert target in headings and "section" in text, (text, target)
    assert "](#" not in str([cell.outputs for cell in code(stored)])


def test_formulas_keep_the_rules_of_the_renderers(stored):
    for cell in prose(stored):
        for line in cell.source.splitlines():
            assert "$$" not in line or line.strip() == "$$", cell.id
        for formula in re.findall(r"\$\$(.*?)\$\$", cell.source, flags=re.S):
            assert not any(
                line.strip().startswith("-") for line in formula.splitlines()
            )
        maths = re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", cell.source, flags=re.S)
        assert not [formula for formula in maths if "|" in formula], cell.id


SHOWN = "pipeline encoder decoder losses model step train tsne interpolation "
SHOWN += "sampling vae-model"


def test_only_plumbing_is_folded_and_in_every_frontend(stored):
    for cell in code(stored):
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == (cell.metadata.get("cellView") == "form")
        assert hidden == ("hide-input" in cell.metadata.get("tags", []))
        assert hidden == cell.source.startswith("# @title "), cell.id
    ids = {cell.id: cell for cell in code(stored)}
    for name in SHOWN.split():
        assert "jupyter" not in ids[name].metadata, name


def test_the_stored_notebook_is_well_formed(stored):
    nbformat.validate(stored)
    text = cells.committed("homework07.ipynb")
    assert len(text.encode()) < 1_500_000 and "widget-view" not in text
    assert stored.metadata.language_info.name == "python"
    assert not re.search(r"/(home|root|work|Users)/", text)


def test_the_readme_tells_the_numbers_of_the_stored_run(results):
    readme, measured = cells.committed("README.md"), results["measured"]
    rows = {"PCA, 10 numbers": "PCA-10", "autoencoder": "Autoencoder", "VAE": "VAE"}
    for name, key in rows.items():
        mse, knn = measured["mse"][key], measured["knn"][key]
        row = next(
            line for line in readme.splitlines() if line.startswith(f"| {name} |")
        )
        assert f"{mse:.4f}" in row and f"{knn:.1%}" in row, name
    assert f"TensorFlow {results['versions']['tensorflow']}" in readme
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert cells.ROOT.joinpath(path).exists(), path
