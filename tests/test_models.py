"""Shapes, losses, sampling and saving of both models."""

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(params=["Autoencoder", "VAE"])
def model(request, nb):
    return nb.build(getattr(nb, request.param), 10)


def test_encoder_and_decoder_stand_alone(nb, images):
    codes = nb.Encoder(6)(images[:3])
    assert codes.shape == (3, 6)
    decoded = nb.Decoder(6)(codes)
    assert decoded.shape == (3, 28, 28, 1)
    assert 0 <= np.min(decoded) and np.max(decoded) <= 1
    mean, log_variance = nb.GaussianEncoder(6)(images[:3])
    assert mean.shape == log_variance.shape == (3, 6)


def test_codes_may_have_either_sign(nb, images):
    codes = nb.Encoder(10)(images).numpy()
    assert codes.min() < 0 < codes.max()


def test_the_models_differ_in_the_bottleneck_alone(nb):
    shapes = {}
    for name in ("Autoencoder", "VAE"):
        model = nb.build(getattr(nb, name), 10)
        shapes[name] = [tuple(weight.shape) for weight in model.trainable_variables]
    for shape in shapes["Autoencoder"]:
        shapes["VAE"].remove(shape)
    assert shapes["VAE"] == [(256, nb.LATENT_DIM), (nb.LATENT_DIM,)]


def test_saving_and_loading_changes_nothing(model, images, tmp_path):
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    np.testing.assert_array_equal(loaded.embed(images), model.embed(images))
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_embed_gives_what_the_reconstruction_is_decoded_from(model, images):
    codes = model.embed(images)
    assert codes.shape == (len(images), 10)
    np.testing.assert_allclose(model.decoder(codes), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x * 255, "in \\[0, 1\\], got values from 0.0 to 255.0"),
        (lambda x: x - 1, "in \\[0, 1\\]"),
        (lambda x: x * np.nan, "in \\[0, 1\\]"),
        (lambda x: x[..., 0], "\\(n, 28, 28, 1\\).*got float32 \\(256, 28, 28\\)"),
        (lambda x: (x * 255).astype("uint8"), "float images"),
        (lambda x: x[:0], "float images"),
    ],
    ids=["0…255", "negative", "NaN", "no channel", "uint8", "none"],
)
def test_embed_refuses_other_images(model, images, change, expected):
    with pytest.raises(ValueError, match=expected):
        model.embed(change(images))


def test_a_code_of_another_width_is_refused(model):
    with pytest.raises(ValueError, match="10.*7"):
        model.decoder(np.zeros((2, 7), "float32"))


def test_cross_entropy_is_summed_over_pixels(nb, images, rng):
    guess = rng.uniform(0.01, 0.99, images.shape).astype("float32")
    expected = -(images * np.log(guess) + (1 - images) * np.log(1 - guess)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(nb.binary_cross_entropy(images, guess), expected, rtol=1e-4)
    assert (nb.binary_cross_entropy(images, images).numpy() < expected).all()


def test_untrained_models_say_the_same_grey_everywhere(model, nb, images):
    grey = np.full_like(images, 1 / (1 + np.exp(0.9)))
    expected = np.mean(nb.binary_cross_entropy(images, grey))
    loss = np.mean(model.loss_terms(images)["reconstruction"])
    assert loss == pytest.approx(expected, rel=0.02)
    assert loss < 784 * np.log(2)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere(nb, rng):
    zeros = np.zeros((1, 10), "float32")
    assert float(nb.kl_divergence(zeros, zeros)[0]) == 0
    assert (nb.kl_divergence(*rng.normal(size=(2, 100, 10))).numpy() > 0).all()


def test_kl_agrees_with_an_average_over_draws(nb, rng):
    mean, log_variance = rng.normal(size=(2, 10))
    sigma = np.exp(log_variance / 2)
    z = mean + sigma * rng.normal(size=(100_000, 10))
    log_q = -0.5 * ((z - mean) / sigma) ** 2 - np.log(sigma)
    ratios = (log_q + 0.5 * z**2).sum(axis=1)
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(float(nb.kl_divergence(mean, log_variance)) - ratios.mean()) < 3 * error


def test_sampling_has_the_right_moments_and_new_noise(nb):
    mean = tf.fill((50_000, 2), 3.0)
    log_variance = tf.fill((50_000, 2), np.float32(np.log(4.0)))
    sampling = nb.Sampling()
    first, second = sampling(mean, log_variance).numpy(), sampling(mean, log_variance).numpy()
    assert first.mean() == pytest.approx(3, abs=0.05) and first.std() == pytest.approx(2, abs=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_the_same_seed_gives_the_same_noise(nb, images):
    runs = [nb.build(nb.VAE, 10).loss_terms(images)["reconstruction"] for _ in range(2)]
    np.testing.assert_array_equal(*runs)


def test_gradients_reach_mean_and_log_variance(nb, images):
    vae = nb.build(nb.VAE, 10)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(vae.loss_terms(images)["reconstruction"])  # without the KL's help
    heads = [vae.encoder.code.kernel, vae.encoder.log_variance.kernel]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, heads))


def test_the_vae_samples_in_training_only(nb, images):
    vae = nb.build(nb.VAE, 10)
    np.testing.assert_array_equal(vae(images), vae(images))
    assert np.abs(vae(images, training=True) - vae(images, training=True)).max() > 0


def test_loss_terms_add_up_to_the_loss(model, nb, images):
    result = nb.evaluate(model, images)
    assert result["loss"] == pytest.approx(sum(v for k, v in result.items() if k != "loss"))
    assert set(result) == {"loss", "reconstruction"} | (
        {"kl"} if isinstance(model, nb.VAE) else set()
    )


def test_the_slip_divides_the_reconstruction_by_784(nb, images):
    right, wrong = (nb.build(m, 10).loss_terms(images) for m in (nb.VAE, nb.MeanOverPixelsVAE))
    np.testing.assert_allclose(wrong["reconstruction"] * 784, right["reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(wrong["kl"], right["kl"], rtol=1e-5)
