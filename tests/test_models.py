"""First weights, losses, sampling and saving of the models."""

import cells
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import weights

BOTH = ["Autoencoder", "VAE"]
VARIANTS = ["VAEWithoutMeanTerm", "AutoencoderWithMeanTerm", "MeanOverPixelsVAE"]


def create(nb, name):
    """Return a new model, as a training begins with it."""
    return nb.Training(getattr(nb, name), nb.train_set.images, 1).model


@pytest.fixture(params=BOTH)
def model(request, nb):
    return create(nb, request.param)


@pytest.fixture
def vae(nb):
    return create(nb, "VAE")


def test_a_numpy_integer_may_be_the_number_of_dimensions(nb, images):
    assert nb.VAE(np.int64(4)).encode(images).shape == (200, 4)


@pytest.mark.parametrize("name", ["VAE", *VARIANTS])
def test_all_models_start_from_equal_weights(nb, name):
    ours, theirs = (
        [weights(x) for x in (model.encoder.trunk, model.encoder.code, model.decoder)]
        for model in (create(nb, "Autoencoder"), create(nb, name))
    )
    assert all(map(np.array_equal, ours, theirs))


@pytest.mark.parametrize("name", [*BOTH, *VARIANTS])
def test_saved_weights_give_a_new_model_the_same_outputs(nb, images, tmp_path, name):
    model, new = create(nb, name), getattr(nb, name)(nb.LATENT_DIM)
    for weight in model.weights:
        weight.assign(weight + 0.01)
    model.save_weights(tmp_path / "x.weights.h5")
    new(images)  # creates the weights
    new.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(new(images), model(images))
    np.testing.assert_array_equal(weights(new), weights(model))


def test_an_image_is_reconstructed_from_its_code_without_noise(model, images):
    codes, encoded = model.encode(images), model.encoder(images)
    mean = encoded[0] if isinstance(encoded, tuple) else encoded
    np.testing.assert_allclose(codes, mean, atol=1e-6)
    np.testing.assert_allclose(model.decoder(codes), model(images), atol=1e-5)
    assert np.min(codes) < 0 < np.max(codes)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (keras.config.set_image_data_format, "channels_first"),
        (keras.config.set_floatx, "float64"),
        (keras.config.set_dtype_policy, "mixed_float16"),
    ],
)
def test_a_readers_own_settings_of_keras_change_nothing(images, setting, value):
    setting(value)
    reconstructed = cells.define().VAE(4)(images[:3])
    assert reconstructed.shape == (3, 28, 28, 1)
    assert reconstructed.dtype == "float32"


# --- loss


def test_cross_entropy_is_summed_over_pixels(nb, images, rng):
    guess = rng.uniform(0.01, 0.99, images.shape).astype("float32")
    surprise = images * np.log(guess) + (1 - images) * np.log(1 - guess)
    losses = nb.binary_cross_entropy(images, guess)
    np.testing.assert_allclose(losses, -surprise.sum(axis=(1, 2, 3)), rtol=1e-4)


def test_images_of_double_precision_cost_the_same(nb, model, images):
    expected = nb.evaluate(model, images)
    assert nb.evaluate(model, np.float64(images)) == pytest.approx(expected, rel=1e-5)


def test_the_kl_is_that_of_the_worked_example_in_each_dimension(nb):
    kl = nb.kl_divergence(np.ones((2, 3)), np.full((2, 3), np.log(0.5**2)))
    np.testing.assert_allclose(kl, [3 * 0.818] * 2, rtol=1e-3)


def mean_term(mean, log_variance):
    return np.float64(mean) ** 2 / 2


def variance_term(mean, log_variance):
    return 0.5 * (np.exp(np.float64(log_variance)) - 1 - np.float64(log_variance))


@pytest.mark.parametrize(
    ("name", "paid"),
    [
        ("Autoencoder", []),
        ("VAE", [mean_term, variance_term]),
        ("MeanOverPixelsVAE", [mean_term, variance_term]),
        ("VAEWithoutMeanTerm", [variance_term]),
        ("AutoencoderWithMeanTerm", [mean_term]),
    ],
)
def test_each_model_pays_its_part_of_the_kl(nb, images, name, paid):
    model = create(nb, name)
    encoded = model.encoder(images)
    mean, log_variance = encoded if "VAE" in name else (encoded, None)
    terms = model.loss_terms(images)
    assert set(terms) == {"reconstruction", "kl"} if paid else {"reconstruction"}
    expected = sum(term(mean, log_variance).sum(axis=1) for term in paid)
    np.testing.assert_allclose(terms.get("kl", 0), expected, rtol=1e-3, atol=1e-5)


def test_a_step_follows_the_gradient_of_both_terms(nb, vae, images, eager):
    head, output = vae.encoder.log_variance, vae.decoder.stack.layers[-1]
    head.bias.assign(np.full(10, -40, "float32"))  # σ is tiny: a draw is the mean
    errors = (images - vae(images)).numpy().sum(axis=(1, 2, 3)).mean()
    before = [layer.bias.numpy() for layer in (head, output)]
    nb.train_step(vae, keras.optimizers.SGD(1.0), images)
    # reconstruction: x − x̂, summed over the pixels; KL: ½ (1 − σ²) per dimension
    np.testing.assert_allclose(head.bias - before[0], 0.5, atol=1e-3)
    np.testing.assert_allclose(output.bias - before[1], errors, rtol=1e-3)


# --- sampling


def test_draws_have_the_right_moments_and_new_noise_each_time(nb):
    mean, log_variance = np.float32([3, np.log(4)])[:, None, None].repeat(50_000, 1)
    sampling = nb.Sampling()
    first, second = (sampling(mean, log_variance).numpy()[:, 0] for _ in range(2))
    assert first.mean() == pytest.approx(3, abs=0.05)
    assert first.std() == pytest.approx(2, abs=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_the_reconstruction_loss_reaches_mean_and_log_variance(vae, images):
    with tf.GradientTape() as tape:  # without the KL's help
        loss = tf.reduce_mean(vae.loss_terms(images)["reconstruction"])
    heads = [vae.encoder.code.kernel, vae.encoder.log_variance.kernel]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, heads))


def test_the_evaluation_draws_codes_but_always_the_same(nb, vae, images):
    vae.encoder.log_variance.bias.assign(np.full(10, 4, "float32"))  # σ is large
    first, second = (nb.evaluate(vae, images) for _ in range(2))
    assert first == second
    at_mean = np.mean(nb.binary_cross_entropy(images, vae(images)))
    assert abs(first["reconstruction"] - at_mean) > 0.1
