"""Run homework07.ipynb from top to bottom, store its outputs, write the report as HTML.

The terminal shows each heading, each cell and what it prints, and at the end which
cells took longest. Nothing here changes what the notebook does: it is "Restart kernel
and run all cells" in Jupyter, followed by an export, except that TensorFlow's greeting
is left out. A complete run also writes, into the folder of the figures, results.json
(all numbers, and the hash of the code that made them) and round_trip.gif.
"""

import argparse
import base64
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import cells
import nbformat
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from traitlets.config import Config

NOTEBOOK = Path(__file__).parents[1] / "homework07.ipynb"
LAST_CELL = Path(__file__).with_name("last_cell.py").read_text(encoding="utf-8")
TRAININGS = {"Autoencoder": "run-autoencoder", "VAE": "run-vae"}  # ids of cells
# what TensorFlow writes to the error stream when it starts, which is no error
GREETING = re.compile(
    r"WARNING: All log messages before absl::InitializeLog.*\n"
    r"|(I\d{4} .*|.* I tensorflow/.*)\n"
    r"|To enable the following instructions.*\n"
)


class Client(NotebookClient):
    """A client that leaves out TensorFlow's greeting; its kernel starts in `folder`.

    If it is verbose, it says where it is and repeats what the cells print.
    """

    def __init__(self, notebook, folder=".", verbose=False, **options):
        options = {"coalesce_streams": True, "record_timing": False} | options
        options.setdefault("resources", {"metadata": {"path": str(folder)}})
        super().__init__(notebook, **options)
        self.verbose, self.interrupted = verbose, False
        self.place = "the start of the kernel"
        self.seconds = {}  # by the id of the cell

    def output(self, outs, msg, display_id, cell_index):
        content = msg["content"]
        if content.get("name") == "stderr":
            content["text"] = GREETING.sub("", content["text"])
            if not content["text"]:
                return None
        if msg["msg_type"] == "stream":
            self.show(content["text"], end="")
        elif msg["msg_type"] == "error":
            self.show(strip_ansi("\n".join(content["traceback"])))
        return super().output(outs, msg, display_id, cell_index)

    def run(self):
        """Run all cells in a fresh kernel; old outputs go. Ctrl-C ends it, in any cell.

        Raises:
            nbclient.exceptions.CellExecutionError: A cell failed, as the message shows.
            nbclient.exceptions.DeadKernelError: The kernel ended.
            KeyboardInterrupt: There was a Ctrl-C.
        """
        with self.setup_kernel():
            for cell in self.nb.cells:
                if cell.cell_type == "code":
                    cell.update(outputs=[], execution_count=None)
            handler = signal.signal(signal.SIGINT, self.interrupt)
            try:
                for i, cell in enumerate(self.nb.cells):
                    self.run_cell(cell, i)
                    if self.interrupted:  # and the cell coped with it
                        break
            except Exception:
                if not self.interrupted:
                    raise
            finally:
                signal.signal(signal.SIGINT, handler)
                self.show_slowest()
        if self.interrupted:
            raise KeyboardInterrupt

    def run_cell(self, cell, index):
        """Run a cell of code and take its time; of text, show the headings."""
        if cell.cell_type != "code":
            for heading in re.findall(r"^#+ (.*)", cell.source, flags=re.M):
                self.show(f"\n{heading}")
            return
        self.place = f"cell {index + 1} ({cell.id})"
        self.show(f"[{self.place} of {len(self.nb.cells)}]")
        started = time.perf_counter()
        self.execute_cell(cell, index)
        self.seconds[cell.id] = time.perf_counter() - started

    def interrupt(self, *signal_and_frame):
        """Interrupt the cell that runs, as Jupyter does; the next Ctrl-C ends this."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.interrupted = True
        run_sync(self.km.interrupt_kernel)()

    def show(self, text, end="\n"):
        if self.verbose:
            print(text, end=end, flush=True)

    def show_slowest(self, count=10):
        self.show("\nThe slowest cells, in seconds:")
        for name in sorted(self.seconds, key=self.seconds.get, reverse=True)[:count]:
            self.show(f"{self.seconds[name]:8.1f}  {name}")


def collect(client, parameters=""):
    """Run the notebook of `client`, and one cell more, which tells what came out.

    Both that cell and the one with `parameters` are gone afterwards.

    Returns:
        The results, the name of the figures' folder, and the animation.
    """
    notebook, own = client.nb, list(client.nb.cells)
    sources = cells.code_cells(notebook)
    names = list(cells.read_parameters(notebook))
    if parameters:
        (tagged,) = cells.code_cells(notebook, "parameters")
        place = [cell.source for cell in own].index(tagged) + 1
        notebook.cells.insert(place, nbformat.v4.new_code_cell(parameters))
    source = f"parameter_names = {names}\n{LAST_CELL}"
    last_cell = nbformat.v4.new_code_cell(source, id="last-cell")
    notebook.cells.append(last_cell)
    try:
        client.run()
    finally:
        notebook.cells[:] = own  # without what was added
    (told,) = [output.data for output in last_cell.outputs if "data" in output]
    results = json.loads(told["text/plain"])
    seconds = {name: client.seconds.get(cell) for name, cell in TRAININGS.items()}
    total = sum(client.seconds.values()) - client.seconds[last_cell.id]
    results["seconds"] = seconds | {"total": total}
    results["code_sha256"] = cells.hash_code(sources)
    return results, results.pop("figures"), base64.b64decode(told["image/gif"])


def execute(notebook, folder, parameters="", verbose=False):
    """Run `notebook` in a fresh kernel started in `folder`; return its results.

    The outputs are in `notebook` then. `parameters` is code to run behind the cell
    tagged "parameters". `Client.run` names the errors.
    """
    return collect(Client(notebook, folder, verbose), parameters)[0]


def export(notebook):
    """Return `notebook` as HTML, without the code of cells tagged hide-input.

    The classic template keeps the alternative text of the figures.
    """
    without_code = {"enabled": True, "remove_input_tags": {"hide-input"}}
    config = Config(TagRemovePreprocessor=without_code)
    exporter = HTMLExporter(template_name="classic", embed_images=True, config=config)
    return exporter.from_notebook_node(notebook)[0]


def check_writable(folders, files):
    """End the program if one of `folders` or `files` exists and is read-only."""
    for path in filter(Path.exists, [*folders, *files]):
        try:
            with TemporaryFile(dir=path) if path in folders else path.open("r+b"):
                pass
        except OSError as error:
            sys.exit(f"Nothing was run: {path} cannot be written ({error.strerror}).")


def write(files):
    """Write {path: bytes}; if that fails, leave all as it was and end the program."""
    new = {path: path.with_name(path.name + ".new") for path in files}
    try:
        for path, content in files.items():
            new[path].write_bytes(content)
        for path in files:
            os.replace(new[path], path)
    except OSError as error:
        names = ", ".join(path.name for path in files)
        advice = "What was there is unchanged. Make room there, and run this again."
        sys.exit(f"\nCould not write {names}: {error.strerror}. {advice}")
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sys.stdout.reconfigure(errors="replace")  # Windows' encoding has no arrows
    folder, report = NOTEBOOK.parent, NOTEBOOK.with_suffix(".html")
    figures = folder / "figures", folder / "figures-stand-in"
    check_writable([folder, *figures], [NOTEBOOK, report])
    before = NOTEBOOK.read_bytes()
    client = Client(nbformat.reads(before.decode(), 4), folder, verbose=True)
    files, problem, status = {}, "", 0
    try:
        results, name, animation = collect(client)
        numbers = json.dumps(results, indent=1) + "\n"
        files[folder / name / "results.json"] = numbers.encode()
        files[folder / name / "round_trip.gif"] = animation
    except KeyboardInterrupt:
        problem, status = f"\ninterrupted in {client.place}", 130
    except Exception as error:
        if not isinstance(error, CellExecutionError):  # which was printed as it came
            print(f"{type(error).__name__}: {error}")
        problem, status = f"\nfailed in {client.place}", 1
    content = (nbformat.writes(client.nb) + "\n").encode()
    edited = not NOTEBOOK.exists() or NOTEBOOK.read_bytes() != before
    if edited:
        aside = NOTEBOOK.with_suffix(".run.ipynb")
        write({aside: content})
        print(f"\n{NOTEBOOK.name} was edited meanwhile, so the outputs are in {aside}")
    else:
        write({NOTEBOOK: content} | files)
    if problem:
        print(problem)
    elif not edited:
        write({report: export(client.nb).encode()})
        print(f"\nDone. The report is {report}")
    sys.exit(status or edited)


if __name__ == "__main__":
    main()
