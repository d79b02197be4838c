"""The runner, on notebooks of a few lines: what it stores, and when it does not."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import cells
import nbformat
import numpy as np
import PIL.Image
import pytest
import run_notebook
from nbclient.exceptions import CellExecutionError

NAME, REPORT = cells.PATH.name, "homework07.html"
NUMBERS, ANIMATION = "figures-stand-in/results.json", "figures-stand-in/round_trip.gif"
# stands for the homework; its interpolations are a cross-fade and an empty picture
STAND_IN = """
import sys, time, types
from pathlib import Path
import numpy as np

for name in "tensorflow", "keras":
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__version__ = f"{name[0]} 1.2"
SOURCE, FIGURES = "no data", Path("figures-stand-in")
FIGURES.mkdir(exist_ok=True)
models = {"Autoencoder": 1, "VAE": 0}
examples = np.ones((3, 28, 28, 1)) * np.reshape([0.25, 0.5, 1], (3, 1, 1, 1))
results = {"VAE": {"loss": np.float32(0.5), "used": np.int64(3), "kl": np.ones(2)}}
autoencoder_training = types.SimpleNamespace(history={0: {"test": np.float32(1.5)}})
vae_training = types.SimpleNamespace(history={0: {"test": 2.5}, 10: {"test": 1.5}})

def interpolate(model, start, end, steps=11):
    t = np.linspace(0, 1, steps)[:, None, None, None]
    return model * ((1 - t) * start + t * end), None
"""
# a cell's own line, and TensorFlow's greeting
ERROR_STREAM = """mind!
WARNING: All log messages before absl::InitializeLog() is called …
I0000 00:00:17.9 6424 port.cc:153] oneDNN custom operations are on.
2026-01-01 00:00:00.1: I tensorflow/core/cpu_feature_guard.cc:210] This binary …
To enable the following instructions: AVX2 FMA, in other operations, …
"""
COMPLETE = {  # ids and sources of cells
    "run-autoencoder": "",
    "run-vae": "print('a → b')\ntime.sleep(0.2)",
    "warn": f"sys.stderr.write({ERROR_STREAM!r})\ntime.sleep(0.5)",
}


def make_notebook(sources):
    """Return a notebook of code cells {id: source}, with outputs of an earlier run."""
    old = {"outputs": [nbformat.v4.new_output("stream", text="of an earlier run")]}
    old["execution_count"] = 99
    sources = {"settings": "EPOCHS, RATE = 2, 4e-3", "stand_in": STAND_IN} | sources
    code = [nbformat.v4.new_code_cell(x, id=k, **old) for k, x in sources.items()]
    code[0].metadata.tags = ["parameters"]
    code[1].metadata.tags = ["definitions", "hide-input"]
    markdown = nbformat.v4.new_markdown_cell("## Some heading\n\nSome text.")
    metadata = cells.read().metadata
    return nbformat.v4.new_notebook(cells=[markdown, *code], metadata=metadata)


def make_project(folder, **sources):
    """Write a notebook and the tools to `folder`; return it."""
    shutil.copytree(cells.ROOT / "tools", folder / "tools")
    nbformat.write(make_notebook(sources), folder / NAME)
    return folder


def run(project, *arguments, presses=0, **options):
    """Run the runner; return its exit status and what it printed.

    There are so many `presses` of Ctrl-C once a cell says that it waits.
    """
    command = [sys.executable, "tools/run_notebook.py", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}  # as on Windows
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    options |= {"encoding": "cp1252", "env": environment, "start_new_session": True}
    printed = ""
    with subprocess.Popen(command, cwd=project, **options) as process:
        for line in process.stdout:
            printed += line
            for _ in range(presses if line.endswith("waits\n") else 0):
                time.sleep(0.5)
                os.killpg(process.pid, signal.SIGINT)
    # never Python's own traceback; those of cells have no quotes
    assert 'File "' not in printed and "AssertionError" not in printed, printed
    return process.returncode, printed


def read_files(project):
    """Return the contents of all files of a project, but for the tools."""
    paths = {x.relative_to(project).as_posix(): x for x in project.rglob("*.*")}
    return {x: paths[x].read_bytes() for x in paths if not x.startswith("tools")}


def read_outputs(path):
    """Return {id: texts and errors} of the code cells behind the first two."""
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    texts = {c.id: [x.get("text") or x.get("ename") for x in c.outputs] for c in code}
    assert texts.pop("settings") == texts.pop("stand_in") == []
    return texts


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a complete run, and what the terminal showed."""
    project = make_project(tmp_path_factory.mktemp("Übung 7 (neu)"), **COMPLETE)
    status, printed = run(project)
    assert status == 0, printed
    return project, printed


def test_a_run_stores_its_outputs_and_writes_a_report_without_hidden_code(complete):
    project, _ = complete
    expected = {"run-autoencoder": [], "run-vae": ["a → b\n"], "warn": ["mind!\n"]}
    assert read_outputs(project / NAME) == expected
    stored = nbformat.read(project / NAME, 4)
    assert stored.metadata == cells.read().metadata
    counts = [cell.execution_count for cell in stored.cells[1:]]
    assert counts == [1, 2, None, 3, 4]  # the empty cell had 99
    files = read_files(project)
    assert set(files) == {NAME, REPORT, NUMBERS, ANIMATION}
    report = files[REPORT].decode()
    assert all(x in report for x in ("a → b", "Some heading", "EPOCHS"))
    assert "SimpleNamespace" not in report


def test_the_terminal_shows_where_the_run_is_and_what_took_long(complete):
    _, printed = complete
    told, slowest = printed.split("mind!")
    assert "\nSome heading\n" in told and "a ? b" in told  # Windows has no arrows
    assert told.index("settings") < told.index("run-vae") < told.index("warn")
    assert slowest.index("warn") < slowest.index("run-vae") < slowest.index("settings")
    assert "oneDNN" not in printed


def test_a_complete_run_writes_its_numbers(complete):
    project, _ = complete
    numbers = json.loads((project / NUMBERS).read_text(encoding="utf-8"))
    seconds, code_sha256 = numbers.pop("seconds"), numbers.pop("code_sha256")
    stored = nbformat.read(project / NAME, 4)
    assert code_sha256 == cells.hash_code(cells.code_cells(stored))
    assert seconds.keys() == {"Autoencoder", "VAE", "total"}
    assert 0.7 <= seconds["VAE"] + 0.5 <= seconds["total"]
    vae = {"0": {"test": 2.5}, "10": {"test": 1.5}}
    assert numbers == {
        "source": "no data",
        "parameters": {"EPOCHS": 2, "RATE": 0.004},
        "versions": {"tensorflow": "t 1.2", "keras": "k 1.2", "numpy": np.__version__},
        "results": {"VAE": {"loss": 0.5, "used": 3, "kl": [1, 1]}},
        "history": {"Autoencoder": {"0": {"test": 1.5}}, "VAE": vae},
    }


def test_the_animation_goes_through_all_examples_and_back(complete):
    shown = []
    with PIL.Image.open(complete[0] / ANIMATION) as gif:
        for i in range(gif.n_frames):
            gif.seek(i)
            frame = 1 - np.asarray(gif.convert("L"), dtype=float) / 255
            left, right = np.split(frame, 2, axis=1)
            assert np.ptp(left) < 0.02 and right.max() == 0  # the VAE's are empty
            shown.append(left.mean())
    expected = np.interp(np.arange(15) / 5, range(4), [0.25, 0.5, 1, 0.25])
    assert shown == pytest.approx(expected, abs=0.02)


def test_parameters_run_behind_the_notebooks_own_and_do_not_stay(tmp_path):
    notebook = make_notebook({"last": "print(EPOCHS, RATE)"})
    ids = [cell.id for cell in notebook.cells]
    results = run_notebook.execute(notebook, tmp_path, "EPOCHS = 5")
    assert results["parameters"] == {"EPOCHS": 5, "RATE": 0.004}
    assert results["code_sha256"] == cells.hash_code(cells.code_cells(notebook))
    assert [x.text for x in notebook.cells[-1].outputs] == ["5 0.004\n"]
    notebook.cells[-1].source = "1 / 0"
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_notebook.execute(notebook, tmp_path, "EPOCHS = 5")
    assert [cell.id for cell in notebook.cells] == ids
    assert not list(tmp_path.glob("**/*.*"))


def test_what_it_does_not_know_runs_nothing(tmp_path):
    project = make_project(tmp_path)
    before = read_files(project)
    status, printed = run(project, "other.ipynb")
    assert status == 2 and "usage" in printed
    assert read_files(project) == before


def obey_modes():
    """Let root, who may write all, be refused what is read-only, as others are."""
    if not os.geteuid():
        ctypes.CDLL(None).prctl(24, 1)  # Linux: CAP_DAC_OVERRIDE is not passed on


@pytest.mark.skipif(os.name == "nt", reason="Windows has no read-only folders")
@pytest.mark.parametrize("name", [".", NAME, REPORT, "figures"])
def test_what_cannot_be_written_is_said_before_anything_runs(tmp_path, name):
    project = make_project(tmp_path)
    (project / REPORT).touch()
    (project / "figures").mkdir()
    before = read_files(project)
    (project / name).chmod(0o555)
    status, printed = run(project, preexec_fn=obey_modes)
    (project / name).chmod(0o755)
    assert status != 0
    assert str(project / name) in printed and "settings" not in printed
    assert read_files(project) == before


SLEEP, IGNORE = "time.sleep(100)", "signal.signal(signal.SIGINT, signal.SIG_IGN)"
ENDS = {  # the end of a cell, how many Ctrl-C, the exit status, and stored errors
    "cell that fails": ("1 / 0", 0, 1, ["ZeroDivisionError"]),
    "kernel that dies": ("time.sleep(1)\nos._exit(1)", 0, 1, []),
    "cell that waits": (SLEEP, 1, 130, ["KeyboardInterrupt"]),
    "cell that copes": (f"try: {SLEEP}\nexcept BaseException: pass", 1, 130, []),
    "cell that goes on": (f"{IGNORE}\n{SLEEP}", 2, 130, []),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
@pytest.mark.parametrize("end, presses, expected, errors", ENDS.values(), ids=ENDS)
def test_a_run_that_ends_early_tells_where_and_keeps_outputs(
    tmp_path, end, presses, expected, errors
):
    long = f"import os, signal\nprint(os.getpid(), 'waits', flush=True)\n{end}"
    project = make_project(tmp_path, good="print('new')", long=long, later="2")
    status, printed = run(project, presses=presses)
    assert status == expected and all(error in printed for error in errors)
    last = printed.splitlines()[-1]
    assert ("interrupted" if presses else "failed") in last and "cell 5 (long)" in last
    kernel = int(re.search(r"(\d+) waits", printed)[1])
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    outputs = {"good": ["new\n"], "long": [f"{kernel} waits\n", *errors], "later": []}
    assert read_outputs(project / NAME) == outputs
    assert set(read_files(project)) == {NAME}


def test_a_notebook_that_was_edited_during_the_run_is_not_overwritten(tmp_path):
    edit = f"with Path('{NAME}').open('a') as f: f.write(' ')\nprint('new')"
    project = make_project(tmp_path, edit=edit)
    before = (project / NAME).read_bytes()
    status, printed = run(project)
    assert status != 0
    assert (project / NAME).read_bytes() == before + b" "
    (beside,) = set(read_files(project)) - {NAME}
    assert beside in printed.splitlines()[-1]
    assert read_outputs(project / beside) == {"edit": ["new\n"]}


@pytest.mark.parametrize("size, stored", [(40_000, False), (10, True)])
def test_a_full_disk_truncates_nothing(tmp_path, size, stored):
    """Files may have 200 kB: either the notebook gets larger, or only the report."""
    resource = pytest.importorskip("resource")  # not on Windows
    project = make_project(tmp_path, long=f"print({size} * 'x\\n')")
    (project / NUMBERS).parent.mkdir()
    for name in REPORT, NUMBERS, ANIMATION:
        (project / name).write_text("old")
    before = read_files(project)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    status, printed = run(project, preexec_fn=limit)
    assert status != 0 and (REPORT if stored else NAME) in printed.splitlines()[-1]
    after = read_files(project)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == ({NAME, NUMBERS, ANIMATION} if stored else set())
