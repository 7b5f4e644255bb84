"""PSNR, SSIM and MSE outside a mask, in both forms, compared with independent references."""

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
    """Two images of 48 x 40 pixels that differ by noise, and a rectangular mask."""
    before = pixels(1, 48, 40)
    noise = np.random.default_rng(2).integers(-40, 41, before.shape)
    after = np.clip(before.astype(int) + noise, 0, 255).astype(np.uint8)
    inside = np.zeros((48, 40), bool)
    inside[8:24, 12:30] = True
    return before, after, inside


def test_whole_images_agree_with_scikit_image(case: Case) -> None:
    """The scores equal golden values of scikit-image 0.26.0 for the fixture's images.

    structural_similarity(b, a, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    channel_axis=2, data_range=255), peak_signal_noise_ratio(b, a), mean_squared_error(b / 255,
    a / 255). (torchmetrics 1.9 has the same PSNR. Its SSIM also averages over windows that cross
    the border, with the image reflected.)
    """
    before, after, _ = case
    scores = background_scores(before, after, np.zeros(before.shape[:2], bool))
    assert scores.ssim == pytest.approx(0.5059105545228483, abs=1e-12)
    assert scores.psnr_db == pytest.approx(20.93873412621084, abs=1e-12)
    assert scores.mse == pytest.approx(0.008056132256824299, abs=1e-12)


def test_the_frame_form_agrees_with_scikit_image(case: Case) -> None:
    """The frame form equals the same calls on images multiplied by (1 - mask)."""
    scores = background_scores(*case)
    assert scores.ssim_frame == pytest.approx(0.6753516632381662, abs=1e-12)
    assert scores.psnr_frame_db == pytest.approx(21.62173606753562, abs=1e-12)
    assert scores.mse_frame == pytest.approx(0.006883770665128797, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_agree_with_the_definitions(seed: int) -> None:
    """Both forms equal a pixel-by-pixel reference for seeded images and random masks."""
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


def test_scores_of_a_case_solved_by_hand() -> None:
    """A difference of 51 of 255 is an MSE of 0.04 and 13.98 dB; half a frame has half the MSE."""
    before, after = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 51, np.uint8)
    inside = np.zeros((12, 12), bool)
    inside[:6] = True
    scores = background_scores(before, after, inside)
    assert scores.mse == pytest.approx(0.04)
    assert scores.mse_frame == pytest.approx(0.02)
    assert scores.psnr_db == pytest.approx(13.979, abs=1e-3)
    assert scores.psnr_frame_db == pytest.approx(16.990, abs=1e-3)


def test_pixels_inside_the_mask_have_no_effect(case: Case) -> None:
    """Changing pixels inside the mask changes none of the six figures."""
    before, after, inside = case
    scores = background_scores(before, after, inside)
    painted = after.copy()
    painted[inside] = np.random.default_rng(0).integers(0, 256, painted[inside].shape)
    assert background_scores(before, painted, inside) == scores


def test_both_forms_are_equal_for_an_empty_mask(case: Case) -> None:
    """Without a mask both forms are those of the whole image, bit for bit."""
    before, after, inside = case
    scores = background_scores(before, after, np.zeros_like(inside))
    assert (scores.ssim, scores.mse) == (scores.ssim_frame, scores.mse_frame)


def test_tiling_does_not_change_ssim() -> None:
    """Four tiles, incomplete at the bottom and right, with a mask that crosses tile borders."""
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
    """A full mask leaves no background pixel; the frame form compares two black images."""
    before, after, inside = case
    scores = background_scores(before, after, np.ones_like(inside))
    assert (scores.psnr_db, scores.ssim, scores.mse) == (None, None, None)
    assert (scores.psnr_frame_db, scores.ssim_frame, scores.mse_frame) == (PSNR_CAP_DB, 1.0, 0.0)


def test_equal_images_are_capped(case: Case) -> None:
    """The infinite PSNR of equal images is replaced by the cap; SSIM is 1."""
    before, _, inside = case
    scores = background_scores(before, before, inside)
    assert (scores.psnr_db, scores.mse) == (PSNR_CAP_DB, 0.0)
    assert scores.ssim == pytest.approx(1.0, abs=1e-12)


def test_images_smaller_than_a_window_have_no_ssim() -> None:
    """10 x 12 pixels are smaller than a window of 11 x 11."""
    image = np.zeros((10, 12, 3), np.uint8)
    scores = background_scores(image, image, np.zeros((10, 12), bool))
    assert (scores.ssim, scores.ssim_frame, scores.mse) == (None, None, 0.0)


def test_shapes_must_agree() -> None:
    """The error names all three shapes."""
    image = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(12, 12, 3\), \(12, 12, 3\) and \(11, 12\)"):
        background_scores(image, image, np.zeros((11, 12), bool))
