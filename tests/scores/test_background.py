"""PSNR, SSIM and MSE outside a mask: independent references, both forms, and what they see."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scores.background import PSNR_CAP_DB, background_scores
from pipeline.scores.ssim import RADIUS, TILE
from tests.reference import background as reference
from tests.samples import pixels

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture
def case() -> Case:
    """Two images of 48 x 40 that differ by noise, and a rectangle for a mask."""
    before = pixels(1, 48, 40)
    noise = np.random.default_rng(2).integers(-40, 41, before.shape)
    after = np.clip(before.astype(int) + noise, 0, 255).astype(np.uint8)
    inside = np.zeros((48, 40), bool)
    inside[8:24, 12:30] = True
    return before, after, inside


def test_whole_images_agree_with_scikit_image(case: Case) -> None:
    """Golden values of scikit-image 0.26.0, of the fixture's images.

    structural_similarity(b, a, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    channel_axis=2, data_range=255), peak_signal_noise_ratio(b, a), mean_squared_error(b / 255,
    a / 255). (torchmetrics 1.9 has the same PSNR; its SSIM also averages over windows that hang
    over the border, on a reflected image.)
    """
    before, after, _ = case
    scores = background_scores(before, after, np.zeros(before.shape[:2], bool))
    assert scores.ssim == pytest.approx(0.5059105545228483, abs=1e-12)
    assert scores.psnr_db == pytest.approx(20.93873412621084, abs=1e-12)
    assert scores.mse == pytest.approx(0.008056132256824299, abs=1e-12)


def test_the_frame_form_agrees_with_scikit_image(case: Case) -> None:
    """The same calls on images multiplied by (1 - mask)."""
    scores = background_scores(*case)
    assert scores.ssim_frame == pytest.approx(0.6753516632381662, abs=1e-12)
    assert scores.psnr_frame_db == pytest.approx(21.62173606753562, abs=1e-12)
    assert scores.mse_frame == pytest.approx(0.006883770665128797, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_agree_with_the_definitions(seed: int) -> None:
    """Seeded images and ragged masks against a reference that goes pixel by pixel."""
    generator = np.random.default_rng(seed)
    before, after = generator.integers(0, 256, (2, 23, 19, 3), dtype=np.uint8)
    after = (0.7 * before + 0.3 * after).astype(np.uint8)
    inside = generator.random((23, 19)) > 0.7
    scores = background_scores(before, after, inside)
    kept, kept_after = (image * ~inside[..., None] for image in (before, after))
    error, frame = reference.mse(before, after, ~inside), reference.mse(kept, kept_after)
    assert scores.mse == pytest.approx(error, abs=1e-9)
    assert scores.psnr_db == pytest.approx(reference.psnr_db(error), abs=1e-9)
    assert scores.ssim == pytest.approx(reference.ssim(before, after, ~inside), abs=1e-9)
    assert scores.mse_frame == pytest.approx(frame, abs=1e-9)
    assert scores.psnr_frame_db == pytest.approx(reference.psnr_db(frame), abs=1e-9)
    assert scores.ssim_frame == pytest.approx(reference.ssim(kept, kept_after), abs=1e-9)


def test_by_hand() -> None:
    """Off by 51 of 255 is 0.04 and 13.98 dB; half a frame of it is half the error."""
    before, after = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 51, np.uint8)
    inside = np.zeros((12, 12), bool)
    inside[:6] = True
    scores = background_scores(before, after, inside)
    assert (scores.mse, scores.mse_frame) == (pytest.approx(0.04), pytest.approx(0.02))
    assert scores.psnr_db == pytest.approx(13.979, abs=1e-3)
    assert scores.psnr_frame_db == pytest.approx(16.990, abs=1e-3)


def test_the_true_background_sees_no_pixel_inside_the_mask(case: Case) -> None:
    """Whatever is painted inside, not one of the six figures moves."""
    before, after, inside = case
    scores = background_scores(before, after, inside)
    painted = after.copy()
    painted[inside] = np.random.default_rng(0).integers(0, 256, painted[inside].shape)
    assert background_scores(before, painted, inside) == scores


def test_an_empty_mask_gives_one_measure_in_both_forms(case: Case) -> None:
    """Both forms are then that of the whole image, bit for bit."""
    before, after, inside = case
    scores = background_scores(before, after, np.zeros_like(inside))
    assert (scores.ssim, scores.mse) == (scores.ssim_frame, scores.mse_frame)


def test_an_image_of_many_tiles_is_summed_without_seams() -> None:
    """Four tiles, cut short below and to the right, one of them behind a mask that reaches over."""
    generator = np.random.default_rng(3)
    before = generator.integers(0, 256, (2 * RADIUS + 31, 2 * RADIUS + 262, 1), dtype=np.uint8)
    after = (0.7 * before + 0.3 * generator.integers(0, 256, before.shape)).astype(np.uint8)
    outside = np.ones(before.shape[:2], bool)
    outside[20:, 240:] = False
    assert TILE[0] < 31 < 2 * TILE[0]
    assert TILE[1] < 262 < 2 * TILE[1]
    scores = background_scores(before, after, ~outside)
    kept, kept_after = before * outside[..., None], after * outside[..., None]
    assert scores.ssim == pytest.approx(reference.ssim(before, after, outside), abs=1e-12)
    assert scores.ssim_frame == pytest.approx(reference.ssim(kept, kept_after), abs=1e-12)


def test_without_a_background_the_true_form_has_no_value(case: Case) -> None:
    """A full mask leaves no pixel; the frame form says "equal" of two black images."""
    before, after, inside = case
    scores = background_scores(before, after, np.ones_like(inside))
    assert (scores.psnr_db, scores.ssim, scores.mse) == (None, None, None)
    assert (scores.psnr_frame_db, scores.ssim_frame, scores.mse_frame) == (PSNR_CAP_DB, 1.0, 0.0)


def test_equal_images_are_capped(case: Case) -> None:
    """An infinite ratio is written as the cap; SSIM is 1."""
    before, _, inside = case
    scores = background_scores(before, before, inside)
    assert (scores.psnr_db, scores.mse) == (PSNR_CAP_DB, 0.0)
    assert scores.ssim == pytest.approx(1.0, abs=1e-12)


def test_images_below_a_window_have_no_ssim() -> None:
    """10 x 12 pixels hold no window of 11 x 11."""
    image = np.zeros((10, 12, 3), np.uint8)
    scores = background_scores(image, image, np.zeros((10, 12), bool))
    assert (scores.ssim, scores.ssim_frame, scores.mse) == (None, None, 0.0)


def test_shapes_must_agree() -> None:
    """The message names all three."""
    image = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(12, 12, 3\), \(12, 12, 3\) and \(11, 12\)"):
        background_scores(image, image, np.zeros((11, 12), bool))
