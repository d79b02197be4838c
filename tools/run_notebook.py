"""Run homework07.ipynb from top to bottom, store its outputs, write the report as HTML.

python tools/run_notebook.py

The terminal shows each heading, each cell and what it prints, and at the end which
cells took longest. Nothing here changes what the notebook does: it is "Restart kernel
and run all cells" in Jupyter, followed by an export. Two things are added: results.json
gets the hash of the code that wrote it, and what TensorFlow says when it starts is left
out of the outputs.
"""

import json
import re
import sys
import time
from pathlib import Path

import cells
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from traitlets.config import Config

NOTEBOOK = Path(__file__).parents[1] / "homework07.ipynb"
# what TensorFlow writes to the error stream when it starts, which is no error
GREETING = re.compile(
    r"WARNING: All log messages before absl::InitializeLog.*\n"
    r"|(I\d{4} .*|.* I tensorflow/.*)\n"
    r"|To enable the following instructions.*\n"
)


class Client(NotebookClient):
    """A client that leaves out TensorFlow's greeting."""

    def output(self, outs, msg, display_id, cell_index):
        content = msg["content"]
        if content.get("name") == "stderr":
            content["text"] = GREETING.sub("", content["text"])
            if not content["text"]:
                return None
        return super().output(outs, msg, display_id, cell_index)


class VerboseClient(Client):
    """A client that repeats what the cells print, and says where it is."""

    def __init__(self, notebook, **options):
        hooks = {"on_cell_execute": self.announce, "on_cell_executed": self.stop_clock}
        super().__init__(notebook, **options, **hooks)
        self.started, self.seconds = {}, {}  # by the number of the cell

    def announce(self, cell, cell_index):
        """Print the heading before the cell that starts, its number and its id."""
        before = self.nb.cells[cell_index - 1] if cell_index else cell
        if before.cell_type == "markdown":
            for line in before.source.splitlines():
                if line.startswith("#"):
                    print(f"\n{line.lstrip('# ')}", flush=True)
        print(f"[cell {cell_index + 1} of {len(self.nb.cells)}: {cell.id}]", flush=True)
        self.started[cell_index] = time.perf_counter()

    def stop_clock(self, cell, cell_index, execute_reply):
        self.seconds[cell_index] = time.perf_counter() - self.started[cell_index]

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)

    def print_slowest(self, count=10):
        print(f"\nThe slowest of {len(self.seconds)} code cells, in seconds:")
        for i in sorted(self.seconds, key=self.seconds.get, reverse=True)[:count]:
            print(f"{self.seconds[i]:8.1f}  {self.nb.cells[i].id}", flush=True)


def execute(notebook, folder, parameters="", verbose=False):
    """Run all cells of `notebook` in a fresh kernel started in `folder`; keep outputs.

    `parameters` is code to run behind the cell tagged "parameters".

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed, as the message shows.
    """
    if parameters:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        place = ["parameters" in its_tags for its_tags in tags].index(True) + 1
        notebook.cells.insert(place, nbformat.v4.new_code_cell(parameters))
    client = (VerboseClient if verbose else Client)(
        notebook,
        timeout=None,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    if verbose:
        client.print_slowest()
    return notebook


def find_results(folder):
    """Return {path: when it was written, in ns} of each results.json below `folder`."""
    paths = Path(folder).glob("*/results.json")
    return {path: path.stat().st_mtime_ns for path in paths}


def sign_results(path, notebook):
    """Add to a results.json the hash of the code that wrote it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    results["code_sha256"] = cells.hash_code(cells.code_cells(notebook))
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def export(notebook, path):
    """Write `notebook` to `path` as HTML, without the code of cells tagged hide-input.

    The classic template keeps the alternative text of the figures.
    """
    without_code = {"enabled": True, "remove_input_tags": {"hide-input"}}
    exporter = HTMLExporter(
        template_name="classic",
        embed_images=True,
        config=Config(TagRemovePreprocessor=without_code),
    )
    html, _ = exporter.from_notebook_node(notebook)
    path.write_text(html, encoding="utf-8")


def main():
    sys.stdout.reconfigure(errors="replace")  # Windows' encoding has no arrows
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata, before = dict(notebook.metadata), find_results(NOTEBOOK.parent)
    try:
        execute(notebook, NOTEBOOK.parent, verbose=True)
    finally:  # also after a failure: the outputs up to there say what happened
        # the kernel's exact Python version does not belong in diffs
        notebook.metadata.update(metadata)
        nbformat.write(notebook, NOTEBOOK)
    # digits go to another folder than Fashion-MNIST: what this run wrote is newer
    for path, written in find_results(NOTEBOOK.parent).items():
        if written != before.get(path):
            sign_results(path, notebook)
    report = NOTEBOOK.with_suffix(".html")
    export(notebook, report)
    print(f"\nDone. The report is {report}")


if __name__ == "__main__":
    main()
