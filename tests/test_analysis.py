"""What tables and figures show, where the answer is known."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_cell
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Circle


@dataclass
class FirstPixels:
    """A model whose codes are the first pixels; `decode` makes pixels of codes."""

    latent_dim: int
    decode: Callable = np.positive
    log_variance: np.ndarray | float = 0.0

    def encode(self, images):
        return images[:, 0, : self.latent_dim, 0]

    def encoder(self, images):
        mean = self.encode(images)
        return mean, np.full_like(mean, self.log_variance)

    def decoder(self, codes):
        images = np.zeros((len(codes), 28, 28, 1), "float32")
        images[:, 0, : self.latent_dim, 0] = self.decode(np.array(codes))
        return images

    def __call__(self, images):
        return self.decoder(self.encode(images))


@pytest.fixture
def figures(nb):
    """The figures that would be shown."""
    figures = []
    nb.show_figure = lambda figure, *words: figures.append(figure)
    yield figures
    nb.plt.close("all")


@pytest.fixture
def codes(nb):
    """The first ten pixels of the test images, which are random here, (200, 10)."""
    images = np.random.default_rng(0).random((200, 28, 28, 1), "float32")
    nb.test_set = nb.curve_test = nb.test_set._replace(images=images)
    nb.examples, nb.example_names = nb.find_examples(nb.test_set)
    return images[:, 0, :10, 0]


def replace_trainings(nb, models):
    """Let trainings make `models`; return what will be the list of their classes."""
    made, steps = [], lambda stop: range(stop + 1)

    def create(model_class, *rest):
        made.append(model_class)
        return SimpleNamespace(model=models[len(made) - 1], total_steps=3, steps=steps)

    nb.Training = create
    return made


def grid_in(axes):
    """Return the first pixels of the images of a grid, (rows, columns, 10)."""
    picture = np.array(axes.images[0].get_array())
    rows, columns = np.array(picture.shape) // 30
    return picture.reshape(rows, 30, columns, 30)[:, 1, :, 1:11]


def check_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def set_with(nb, first_pixels, labels):
    """Return a set of images that are 0 but for their first pixel."""
    pixels = np.zeros((len(labels), 28, 28), "uint8")
    pixels[:, 0, 0] = first_pixels
    return nb.ImageSet(pixels, nb.normalize(pixels).numpy(), np.array(labels))


def test_exactly_ten_neighbours_vote_and_nearer_ones_count_more(nb):
    # 4/20 + 1/31 > 5/22, but not without the tenth, nor with an eleventh at 32
    pixels = [108] * 4 + [97] + [106] * 5 + [96] * 4
    train = set_with(nb, pixels, [1] * 5 + [0] * 9)
    analysis = nb.analyze(nb.PixelBaseline(), train, set_with(nb, [128], [1]))
    assert analysis.correct.tolist() == [True]


def test_only_training_images_vote_and_no_test_image_for_itself(nb):
    train = set_with(nb, np.arange(20), [3] * 20)
    test = set_with(nb, 100 + np.arange(30), np.arange(30) % 10)
    analysis = nb.analyze(nb.PixelBaseline(), train, test)
    assert analysis.correct.tolist() == (test.labels == 3).tolist()
    assert analysis.scores["knn"] == pytest.approx(0.1)


def test_pixels_score_the_floor_and_pca_less_than_the_mean_image(nb, images):
    baselines = nb.PixelBaseline(), nb.PCABaseline(images)
    pixels, pca = (nb.analyze(x, nb.train_set, nb.train_set) for x in baselines)
    floor = nb.find_floor(images)
    assert pixels.scores["mse"] == 0
    assert pixels.scores["from the code"] == pytest.approx(floor, rel=1e-5)
    assert 0 < pca.scores["mse"] < 0.5 * images.var(axis=0).mean()
    assert pca.scores["from the code"] > floor
    assert pca.test_codes.shape == (200, nb.LATENT_DIM)


def test_codes_are_described_by_the_scale_of_codes_and_noise(nb, images):
    row, vae = nb.describe_codes(nb.Autoencoder(10), images), nb.VAE(10)
    assert row["sigma"] == 0 and "variance_term" not in row and "loss" in row
    row, (mean, log_variance) = nb.describe_codes(vae, images), vae.encoder(images)
    expected = {"code_std": np.var(mean, axis=0).mean() ** 0.5, "kl": row["kl"]}
    expected["sigma"] = np.exp(np.array(log_variance) / 2).mean()
    row["kl"] = row["mean_term"] + row["variance_term"]
    assert expected == {key: pytest.approx(row[key], rel=1e-4) for key in expected}


def test_frechet_distance_of_known_gaussians(nb):
    a = np.vstack([np.eye(3), -np.eye(3)]) * 2.5**0.5  # mean 0, covariance I
    root = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 2]])
    distance = nb.frechet_distance(a, a @ root + [3, 0, 0])
    assert distance == pytest.approx(3**2 + np.sum((root - np.eye(3)) ** 2), abs=1e-6)


def test_codes_are_drawn_from_a_mixture_in_no_order(nb):
    noise = np.random.default_rng(0).normal(size=(1000, 2))
    places = noise + np.repeat([[0], [50]], 500, axis=0)
    one, two = (nb.sample_codes(places, k, 3000) for k in (1, 2))
    np.testing.assert_allclose([one.mean(), two.mean()], places.mean(), atol=2)
    between = lambda drawn: np.mean((drawn[:, 0] > 10) & (drawn[:, 0] < 40))
    assert between(one) > 0.3 and between(two) == 0
    assert 0.4 < np.mean(two[:300, 0] < 25) < 0.6  # both parts from the start


def test_pairs_are_of_one_class_of_the_closest_and_of_the_farthest_classes(nb):
    labels = np.array([1, 0, 2, 1, 0])
    images = np.array([0.5, 0.4, 1.0, 0.5, 0.4])[:, None, None, None]
    assert nb.choose_pairs(images, labels).tolist() == [[0, 3], [1, 0], [1, 2]]


def test_curves_are_losses_minus_their_floors_and_lines_of_baselines(nb, figures):
    history = {
        0: {"loss": 500.0, "training loss": 490.0, "kl": 1.0, "knn": 0.5},
        10: {"loss": 250.0, "training loss": 230.0, "kl": 20.0, "knn": 0.7},
    }
    baselines = {"PCA": {"from the code": 260.0, "knn": 0.8}}
    baselines["pixels"] = {"from the code": 190.0, "knn": 0.85}
    floors = {"training loss": 180, "loss": 190, "kl": 0}
    nb.show_curves(SimpleNamespace(model=None, history=history), floors, baselines)
    left, right = ([x.get_data() for x in axes.lines] for axes in figures[0].axes)
    assert [list(y) for _, y in left] == [[310, 50], [310, 60], [1, 20], [70, 70]]
    assert [list(y) for _, y in right] == [[0.5, 0.7], [0.8, 0.8], [0.85, 0.85]]
    assert [list(x) for x, _ in (*left[:3], right[0])] == [[0, 10]] * 4


def test_interpolations_decode_a_line_of_codes_and_the_cross_fade_blends(nb, figures):
    pair = set_with(nb, [0, 255], [0, 1]).images
    pair[:, 0, 1] = 0.5  # which no reconstruction shows
    models = {"root": FirstPixels(1, np.sqrt), "square": FirstPixels(1, np.square)}
    nb.show_interpolations("name", models, [pair, pair[::-1]])
    grid, t = grid_in(figures[0].axes[0]), np.linspace(0, 1, 11)
    assert grid.shape[:2] == (6, 13)
    for rows, times in (grid[:3], t), (grid[3:], 1 - t):
        check_close(rows[:, 1:-1, 0], [times**0.5, times**2, times])
    starts = pair[:, 0, :10, 0].repeat(3, axis=0)
    check_close(grid[:, [0, -1]], np.stack([starts, starts[::-1]], axis=1))


def test_a_map_has_names_and_pictures_where_their_points_are(nb, figures):
    nb.CLASS_NAMES, labels = nb.GARMENTS, nb.test_set.labels
    islands = 60 * np.stack([np.arange(10) % 3, np.arange(10) // 3], axis=1)
    points = np.random.default_rng(0).normal(islands[labels], 12).astype("float32")
    points /= np.ptp(points, axis=0).max()
    nb.TSNE = lambda **settings: SimpleNamespace(fit_transform=lambda codes: codes)
    images = np.broadcast_to(np.arange(200)[:, None, None, None], (200, 28, 28, 1))
    nb.show_map("name", points, nb.test_set._replace(images=images))
    (axes,) = figures[0].axes
    colors = to_rgba_array([f"C{label}" for label in labels])
    check_close(axes.collections[0].get_offsets(), points)
    check_close(axes.collections[0].get_facecolors(), colors)
    for text, label in zip(axes.texts, range(10), strict=True):
        assert text.get_text() == nb.GARMENTS[label]
        assert text.get_position() in list(map(tuple, points[labels == label]))
    figures[0].canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    assert [box.count_overlaps(boxes) for box in boxes] == [1] * 10  # with itself
    shown = [int(picture.get_array()[0, 0]) for picture in axes.images]
    assert len(shown) > 10
    corners = [np.reshape(picture.get_extent(), (2, 2)) for picture in axes.images]
    check_close(np.mean(corners, axis=2), points[shown])
    check_close([frame.get_center() for frame in axes.patches], points[shown])
    check_close([frame.get_edgecolor() for frame in axes.patches], colors[shown])


def test_codes_that_are_all_alike_have_a_map_and_only_their_classes_names(nb, figures):
    few = nb.test_set.head(40)._replace(labels=np.repeat([2, 5], 20))
    nb.show_map("name", np.full((40, 10), 0.25, "float32"), few)
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["2", "5"]


def test_planes_show_codes_a_box_and_posteriors_of_two_sigma(nb, figures, codes):
    model = FirstPixels(2, log_variance=np.log([0.25, 0.09]))
    made = replace_trainings(nb, [model, model])
    run_cell(nb, r"^draw_posteriors\(")
    assert made == [nb.Autoencoder, nb.VAE]
    codes, labels = codes[:, :2], nb.test_set.labels
    mean, reach = codes.mean(axis=0), 2 * codes.std(axis=0)
    boxes = [mean - reach, mean + reach], [[-2, -2], [2, 2]]
    for (axes, grid), box in zip(np.reshape(figures[0].axes, (2, 2)), boxes):
        for label, points in enumerate(axes.collections):
            check_close(points.get_offsets(), codes[labels == label])
        check_close(axes.patches[0].get_bbox(), box)
        corners = grid_in(grid)[::14, ::14, :2]
        check_close(corners[..., 0], [np.take(box, [0, 2])] * 2)  # from left to right
        check_close(corners[..., 1].T, [np.take(box, [3, 1])] * 2)  # from above
        assert np.subtract(*grid.get_ylim()) > 0  # where the first row is drawn
    circles = [x for x in axes.patches if isinstance(x, Circle)]
    assert [(*x.get_center(), x.radius) for x in circles] == [(0, 0, 1), (0, 0, 2)]
    ellipses = [x for x in axes.patches[1:] if x not in circles]
    check_close([x.get_center() for x in ellipses], codes[: len(ellipses)])
    sizes = [(x.get_width(), x.get_height()) for x in ellipses]
    check_close(sizes, [[2, 1.2]] * len(ellipses))  # 4 σ


def test_mistakes_stand_in_their_rows_beside_draws_from_the_prior(nb, figures, codes):
    models = [FirstPixels(10, lambda z, k=k: k * z) for k in (1, 2, 3)]
    made = replace_trainings(nb, models)
    nb.evaluate = lambda model, images: {"loss": model.decode(1)}
    run_cell(nb, "^mistakes = ")
    assert made == [nb.VAE, nb.MeanOverPixelsVAE, nb.LogVarianceAsSigmaVAE]
    assert [row["loss"] for row in nb.results.values()] == [1, 2, 3]
    left, right = (grid_in(axes) for axes in figures[0].axes)
    own = nb.examples[:, 0, :10, 0]
    check_close(left, [k * own for k in (1, 1, 2, 3)])
    check_close(right, [k * right[1] for k in (0, 1, 2, 3)])
    assert right[1].std() == pytest.approx(1, abs=0.15)


def test_the_headlines_last_row_is_a_draw_from_the_posterior(nb, figures, codes):
    nb.vae = FirstPixels(10, log_variance=np.log(0.04))
    nb.vae.sampling = nb.Sampling()
    nb.models = {"Autoencoder": FirstPixels(10, np.square), "VAE": nb.vae}
    nb.baselines = {"PCA": FirstPixels(10, np.negative)}
    run_cell(nb, 'show_figure\\(.*"headline"')
    *rows, draw = grid_in(figures[0].axes[0])
    own = nb.examples[:, 0, :10, 0]
    check_close(rows, [own, -own, own**2, own])
    assert np.std(draw - own) == pytest.approx(0.2, rel=0.2)


def test_new_images_come_from_draws_of_the_size_sigma_and_from_the_prior(nb, codes):
    nb.vae = nb.autoencoder = FirstPixels(10, log_variance=np.log(0.04))
    nb.train_codes, fitted = codes, []
    nb.sample_codes = lambda data, k, n: fitted.append((data, k)) or data[:n]
    run_cell(nb, "^posterior_draws = ")
    draws, mean = nb.posterior_draws, nb.vae.encode(nb.train_set.images)
    assert np.std(draws - mean) == pytest.approx(0.2, rel=0.1)
    expected = [(draws, 1), (draws, 10), (codes, 1), (codes, 10)]
    for (data, k), (own, components) in zip(fitted, expected, strict=True):
        assert data is own and k == components
    prior, *others = (images[:, 0, :10, 0] for images in nb.generated.values())
    assert prior.std() == pytest.approx(1, rel=0.1)
    check_close(others, [own[:100] for own, _ in expected])
