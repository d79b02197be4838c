"""Run homework07.ipynb from top to bottom, store its outputs in it, and write the report as HTML.

python tests/run_notebook.py

The terminal shows each heading, each cell and what it prints. Nothing here changes what the
notebook does: it is "Restart kernel and run all cells" in Jupyter, followed by an export.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

NOTEBOOK = Path(__file__).parents[1] / "homework07.ipynb"


class VerboseClient(NotebookClient):
    """A notebook client that repeats in the terminal what the cells print."""

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)


def announce(notebook):
    """Return a hook that prints the headings passed and the number of the cell that starts."""
    cells = notebook.cells

    def hook(cell, cell_index):
        before = cells[cell_index - 1] if cell_index else cell
        if before.cell_type == "markdown":
            for line in before.source.splitlines():
                if line.startswith("#"):
                    print(f"\n{line.lstrip('# ')}", flush=True)
        print(f"[cell {cell_index + 1} of {len(cells)}]", flush=True)

    return hook


def execute(notebook, folder, parameters="", verbose=False):
    """Run all cells of `notebook` in a fresh kernel that starts in `folder`; keep the outputs.

    `parameters` is code to run behind the cell tagged "parameters".

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; its traceback is the message.
    """
    if parameters:
        tagged = [
            i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
        ]
        notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(parameters))
    client = (VerboseClient if verbose else NotebookClient)(
        notebook,
        timeout=None,
        coalesce_streams=True,
        record_timing=False,
        on_cell_execute=announce(notebook) if verbose else None,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook


def export(notebook, path):
    """Write `notebook` to `path` as one HTML file; figures keep their alternative text."""
    html, _ = HTMLExporter(template_name="classic", embed_images=True).from_notebook_node(notebook)
    path.write_text(html, encoding="utf-8")


def main():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata = dict(notebook.metadata)
    try:
        execute(notebook, NOTEBOOK.parent, verbose=True)
    finally:  # also after a failure: the outputs up to there say what happened
        notebook.metadata.update(
            metadata
        )  # the kernel's exact Python version does not belong in diffs
        nbformat.write(notebook, NOTEBOOK)
    export(notebook, NOTEBOOK.with_suffix(".html"))
    print(f"\nDone. The report is {NOTEBOOK.with_suffix('.html')}")


if __name__ == "__main__":
    sys.exit(main())
