"""What figures, tables and scores are computed with, where the answer is known."""

import io
import json

import cells
import numpy as np
import pytest
from PIL import Image


def set_with(nb, first_pixels, labels):
    """Return a set of images that are 0 but for their first pixel."""
    images = np.zeros((len(labels), 28, 28), "uint8")
    images[:, 0, 0] = first_pixels
    return nb.ImageSet(images, np.array(labels))


# --- codes and their neighbours


def test_exactly_ten_neighbours_vote_and_nearer_ones_count_more(nb):
    # 4/20 + 1/31 > 5/22, but not without the tenth, nor with an eleventh at 32
    pixels = [108] * 4 + [97] + [106] * 5 + [96] * 4
    train = set_with(nb, pixels, [1] * 5 + [0] * 9)
    analysis = nb.analyze(nb.PixelBaseline(), train, set_with(nb, [128], [1]))
    assert analysis.votes.tolist() == [1]


def test_only_training_images_vote_and_no_test_image_for_itself(nb):
    train = set_with(nb, np.arange(20), [3] * 20)
    test = set_with(nb, 100 + np.arange(30), np.arange(30) % 10)
    analysis = nb.analyze(nb.PixelBaseline(), train, test)
    assert analysis.votes.tolist() == [3] * 30
    assert analysis.scores["knn"] == pytest.approx(0.1)


def test_pixels_score_the_floor_and_pca_less_than_the_mean_image(nb, images):
    pixels, pca = (
        nb.analyze(baseline, nb.train_set, nb.train_set).scores
        for baseline in (nb.PixelBaseline(), nb.PCABaseline(images))
    )
    floor = nb.find_floor(images)
    assert pixels["mse"] == 0
    assert pixels["cross_entropy"] == pytest.approx(floor, rel=1e-5)
    assert 0 < pca["mse"] < 0.5 * images.var(axis=0).mean()
    assert pca["cross_entropy"] > floor


def test_codes_are_described_by_scale_noise_and_loss_terms(nb, images):
    vae = nb.VAE(10)
    mean, log_variance = np.array(vae.encoder(images), "float64")
    row = nb.describe_codes(vae, images)
    assert row["code_std"] == pytest.approx(mean.var(axis=0).mean() ** 0.5, rel=1e-4)
    assert row["sigma"] == pytest.approx(np.exp(log_variance / 2).mean(), rel=1e-4)
    kl = nb.evaluate(vae, images)["kl"]
    assert row["mean_term"] + row["variance_term"] == pytest.approx(kl, rel=1e-4)
    row = nb.describe_codes(nb.Autoencoder(10), images)
    assert row["sigma"] == 0 and "variance_term" not in row


# --- maps and lines


def test_codes_that_are_all_alike_are_one_spot_on_the_map_and_gain_nothing(nb):
    alike = np.full((200, 10), 0.25, "float32")
    points = nb.tsne_map(alike)
    assert points.shape == (200, 2) and np.ptp(points) == 0
    assert nb.gmm_gain(alike, alike) == 0.0


def test_a_map_even_of_ten_images_names_the_classes_where_they_are(nb, rng):
    labels = np.repeat([2, 5], 5)
    codes = rng.normal(size=(10, 5)) + 30 * np.eye(6)[labels, :5]
    points = nb.tsne_map(codes.astype("float32"))
    figure = nb.plot_map(points, np.zeros((10, 28, 28, 1)), labels)
    for text, label in zip(figure.axes[0].texts, (2, 5), strict=True):
        assert text.get_text() == nb.CLASS_NAMES[label]
        assert text.get_position() in list(map(tuple, points[labels == label]))
    nb.plt.close(figure)


def test_pairs_are_of_one_class_of_the_closest_and_of_the_farthest_classes(nb):
    labels = np.array([1, 0, 2, 1, 0])
    images = np.array([0.5, 0.4, 1.0, 0.5, 0.4])[:, None, None, None]
    assert nb.choose_pairs(images, labels).tolist() == [[0, 3], [1, 0], [1, 2]]


def test_a_line_and_its_cross_fade_lie_between_the_reconstructions(nb, images):
    pair, model = images[:2], nb.VAE(10)
    line, cross_fade = nb.interpolate(model, *pair, 5)
    ends = np.array(model(pair))
    for pictures in line, cross_fade:
        np.testing.assert_allclose(pictures[[0, -1]], ends, atol=1e-5)
    np.testing.assert_allclose(cross_fade[2], ends.mean(axis=0), atol=1e-5)
    middle = model.decoder(np.mean(model.encode(pair), axis=0, keepdims=True))
    np.testing.assert_allclose(line[2], middle[0], atol=1e-5)


# --- densities


def test_log_densities_are_those_of_normal_distributions(nb, rng):
    z, mean, log_variance = rng.normal(size=(3, 6, 4))
    squares = (z[:, None] - mean) ** 2 / np.exp(log_variance)
    expected = -0.5 * (squares + log_variance + np.log(2 * np.pi)).sum(axis=2)
    np.testing.assert_allclose(nb.log_densities(z, mean, log_variance), expected)


@pytest.mark.parametrize("sharing", [1, 2, 50])
def test_posteriors_on_one_spot_share_the_probability(nb, sharing):
    places, mean = np.arange(50) // sharing, np.zeros((50, 3))
    mean[:, 1] = 100 * places
    own = np.arange(50)
    probability, other = nb.trace_draws(own, mean, mean, np.zeros((50, 3)))
    np.testing.assert_allclose(probability, 1 / sharing)
    assert (other != own).all() and (abs(places[other] - places) <= 1).all()


def test_ten_gaussians_describe_one_no_better_but_clusters_do(nb, rng):
    train, test = rng.normal(size=(4000, 3)), rng.normal(size=(1000, 3))
    assert abs(nb.gmm_gain(train, test)) < 0.03
    places = rng.normal(size=(5, 3)) * 20
    train, test = (x + places[rng.integers(5, size=len(x))] for x in (train, test))
    assert nb.gmm_gain(train, test) > 0.5


# --- samples


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (3, 1), (0, 2), (3, 0.5)])
def test_frechet_distance_of_known_gaussians(nb, shift, scale):
    a = np.vstack([np.eye(3), -np.eye(3)]) * 2.5**0.5  # mean 0, covariance I
    expected = shift**2 + 3 * (1 - scale) ** 2
    distance = nb.frechet_distance(a, scale * a + [shift, 0, 0])
    assert distance == pytest.approx(expected, abs=1e-6)


def test_codes_are_drawn_from_a_mixture_in_no_order_or_from_the_prior(nb, rng):
    codes = rng.normal(size=(1000, 2)) + np.repeat([[0], [50]], 500, axis=0)
    prior, one, two = (nb.sample_codes(codes, k, 3000) for k in (0, 1, 2))
    for drawn in one, two:
        np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=2)
    between = lambda drawn: np.mean((drawn[:, 0] > 10) & (drawn[:, 0] < 40))
    assert between(one) > 0.3 and between(two) == 0
    assert 0.4 < np.mean(two[:300, 0] < 25) < 0.6  # both parts from the start
    np.testing.assert_allclose(prior.mean(axis=0), 0, atol=0.07)
    np.testing.assert_allclose(np.cov(prior.T), np.eye(2), atol=0.1)


def test_a_paired_interval_is_the_mean_difference_and_196_standard_errors(nb):
    interval = nb.paired_interval(np.array([True, True, False, False]), np.zeros(4))
    np.testing.assert_allclose(interval, [0.5, 0.5 - 0.49, 0.5 + 0.49])


# --- figures and results


def test_a_readers_own_matplotlibrc_changes_no_picture(nb):
    own = {"image.origin": "lower", "savefig.format": "svg", "text.usetex": True}
    images = np.zeros((1, 1, 28, 28))
    images[..., :14, :] = 1  # black above, white below
    with nb.plt.rc_context(own):
        again = cells.define()
        again.display, again.FIGURES = nb.display, nb.FIGURES
        again.show_figure(again.image_grid(images, ["row"]), "a", "Caption.", "Seen.")
    content, _ = nb.shown[0]
    picture = np.array(Image.open(io.BytesIO(content["image/png"])).convert("L"))
    height, middle = len(picture), picture.shape[1] // 2
    assert picture[height // 3, middle] < 50 < 200 < picture[-height // 5, middle]


def test_figures_have_number_caption_and_description_and_are_saved(nb):
    for name, update in ("one", False), ("two", False), ("one", True):
        figure = nb.image_grid(np.zeros((2, 3, 28, 28)))
        nb.show_figure(figure, name, f"Of {name}.", "What is seen.", update)
    content, options = nb.shown[0]
    assert content["text/plain"] == "What is seen."
    assert options["metadata"]["image/png"]["alt"] == "What is seen."
    assert (nb.FIGURES / "one.png").read_bytes() == content["image/png"]
    captions = [caption.data for caption, _ in nb.shown[1::2]]
    assert captions[:2] == ["**Figure 1.** Of one.", "**Figure 2.** Of two."]
    assert captions[2] == captions[0]
    # each has a place of its own, so that it can be replaced
    assert len({options["display_id"] for _, options in nb.shown}) == 4
    assert [options["update"] for _, options in nb.shown] == [False] * 4 + [True] * 2


def test_a_folder_that_cannot_be_written_costs_the_file_not_the_figure(nb, capsys):
    nb.FIGURES.write_text("in the way")
    nb.show_figure(nb.image_grid(np.zeros((1, 1, 28, 28))), "name", "Caption.", "Seen.")
    assert len(nb.shown) == 2 and "name.png" in capsys.readouterr().out


def test_results_are_collected_and_written_also_as_numpy_numbers(nb):
    nb.PARAMETERS, nb.VERSIONS, nb.SOURCE = {"LATENT_DIM": np.int64(4)}, {}, "somewhere"
    nb.record("VAE", mse=np.float32(0.5), kl_by_dimension=np.arange(3.0))
    nb.record("VAE", mse=0.25)
    row = {"step": 5, "test": np.float32(2.5), "seconds": 1.5, "evaluation": 0.5}
    intervals = {"a minus b": [np.float64(1.0), 0.5, 1.5]}
    nb.write_results(nb.results, intervals, {"VAE": [row]})
    written = json.loads((nb.FIGURES / "results.json").read_text("utf-8"))
    assert written["parameters"] == {"LATENT_DIM": 4}
    assert written["source"] == "somewhere"
    assert written["results"] == {"VAE": {"mse": 0.25, "kl_by_dimension": [0, 1, 2]}}
    assert written["intervals"] == intervals and written["history"] == {"VAE": [row]}
    assert written["seconds"]["VAE"] == {"training": 1.5, "evaluation": 0.5}
