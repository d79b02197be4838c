"""The loop learns, stops, goes on, and measures what it says."""

import cells
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel

EPOCHS = 2


@pytest.fixture(params=["Autoencoder", "VAE"])
def setup(request, nb, digits):
    """A model, its batches (3 and a rest) and its monitor, on the stand-in data."""
    batches = nb.make_pipeline(digits[0][:200], 64, True, 0)
    model = nb.build(getattr(nb, request.param), EPOCHS * len(batches))
    sets = [(nb.normalise(x[:200]).numpy(), y[:200]) for x, y in (digits[:2], digits[2:])]
    return model, batches, nb.Monitor(request.param, model, *sets, list("0123456789"))


def weights(model):
    return [w.numpy() for w in model.trainable_variables]


def steps(model):
    return int(model.optimizer.iterations)


def interrupt_after(nb, count):
    """Make `train_step` raise KeyboardInterrupt once, when it is called for the `count`-th time."""
    step, calls = nb.train_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return step(*arguments)

    nb.train_step = interrupted


def test_training_lowers_the_test_loss(nb, setup):
    model, batches, monitor = setup
    nb.train(model, batches, EPOCHS, monitor)
    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]
    assert monitor.history[-1]["test"]["loss"] < 0.95 * monitor.history[0]["test"]["loss"]
    assert len(monitor.film) == 1 + 3  # the images, and three states of the model


def test_running_again_when_finished_changes_nothing(nb, setup):
    model, batches, monitor = setup
    nb.train(model, batches, EPOCHS, monitor)
    before, history = weights(model), list(monitor.history)
    nb.train(model, batches, EPOCHS, monitor)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model)))
    assert monitor.history == history
    assert steps(model) == EPOCHS * len(
        batches
    )  # a step at learning rate 0 would not show in weights


@pytest.mark.parametrize("count", [1, 3, 6])
def test_an_interrupted_training_goes_on_where_it_was(nb, setup, capsys, count):
    model, batches, monitor = setup
    interrupt_after(nb, count)
    nb.train(model, batches, EPOCHS, monitor)
    assert steps(model) == count - 1
    assert "Run this cell again" in capsys.readouterr().out
    nb.train(model, batches, EPOCHS, monitor)
    assert steps(model) == EPOCHS * len(batches)
    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]


def test_an_interrupted_evaluation_is_made_up_for(nb, setup):
    model, batches, monitor = setup
    evaluate = nb.evaluate

    def interrupted(*arguments):
        nb.evaluate = evaluate
        raise KeyboardInterrupt

    nb.evaluate = interrupted
    nb.train(model, batches, EPOCHS, monitor)
    assert monitor.history == []
    nb.train(model, batches, EPOCHS, monitor)
    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]


SETUP = """
arrays = from_digits()
sets = [(normalise(x).numpy(), y) for x, y in (arrays[:2], arrays[2:])]
batches = make_pipeline(arrays[0], 64, True, 0)
model = build(VAE, 2 * len(batches))
monitor = Monitor("VAE", model, *sets, list("0123456789"))
"""


def listen(client, request, until=lambda content: False):
    """Return what the cell `request` prints, and whether `until` was met by a message of it."""
    printed = ""
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        assert message["msg_type"] != "error", content
        printed += content.get("text", "")
        if until(content):
            return printed, True
        if content.get("execution_state") == "idle":
            return printed, False


def test_interrupting_the_kernel_within_an_epoch_ends_the_cell_and_loses_nothing(tmp_path):
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:
        code = [
            *cells.tagged(cells.read(), "parameters"),
            *cells.tagged(cells.read(), "definitions"),
        ]
        listen(client, client.execute("\n".join([*code, SETUP])))
        training = client.execute("train(model, batches, 2, monitor)")
        in_epoch = lambda content: "`epoch 2" in str(content.get("data"))
        assert listen(client, training, until=in_epoch)[1]
        manager.interrupt_kernel()
        assert "Run this cell again" in listen(client, training)[0]
        steps = "print(int(model.optimizer.iterations) / len(batches))"
        assert 1 < float(listen(client, client.execute(steps))[0]) < 2
        listen(client, client.execute("train(model, batches, 2, monitor)"))
        assert float(listen(client, client.execute(steps))[0]) == 2
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(nb, setup):
    model, batches, monitor = setup
    model.decoder.stack.layers[-1].bias.assign([np.nan])
    with pytest.raises(FloatingPointError, match="epoch 1"):
        nb.train(model, batches, EPOCHS, monitor)


def test_training_refuses_images_outside_0_to_1(nb, setup):
    model, batches, monitor = setup
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        nb.train(model, batches.map(lambda x: x * 255), EPOCHS, monitor)
    assert steps(model) == 0


def test_one_trace_per_model_and_batch_shape(nb, setup):
    model, batches, monitor = setup
    before = nb.train_step.experimental_get_tracing_count()
    nb.train(model, batches, EPOCHS, monitor)
    assert nb.train_step.experimental_get_tracing_count() - before == 2  # batches of 64 and of 8


def test_the_evaluation_weighs_every_image_alike(nb, images):
    model = nb.build(nb.Autoencoder, 10)
    many = np.concatenate([images] * 4 + [np.zeros((7, 28, 28, 1), "float32")])  # 1000 and 31
    per_image = model.loss_terms(many)["reconstruction"].numpy()
    assert nb.evaluate(model, many)["reconstruction"] == pytest.approx(per_image.mean(), rel=1e-5)


def test_the_same_seed_trains_the_same_model(nb, digits):
    runs = []
    for _ in range(2):
        model = nb.build(nb.VAE, 8)
        for images in nb.make_pipeline(digits[0][:200], 64, True, 0):
            nb.train_step(model, images)
        runs.append(weights(model))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(*runs))
