"""The rows that a user reads: the schemas of the published Parquet file and of a staged part.

Nothing in a row varies from run to run; times and hosts go into the marker. So tar and Parquet file
depend on input, configuration, model and code alone.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.records.part import MEMBERS

# (name, type, nullable, meaning). A test compares the documents' table of columns with this one.
COLUMNS: list[tuple[str, pa.DataType, bool, str]] = [
    ("shard", pa.string(), False, "input shard: its path below the common prefix, without .tar"),
    ("key", pa.string(), False, "the sample's key in that shard"),
    ("edit_index", pa.int32(), False, "from 0 within the sample; -1: the sample has no edit"),
    (
        "output_key",
        pa.string(),
        True,
        "key of the edit's files in the tar; of a rejected edit in the tar of _rejected/",
    ),
    ("status", pa.string(), False, "edited, unchanged, rejected or failed"),
    ("stage", pa.string(), True, "where the edit failed, was rejected or was found unchanged"),
    ("error", pa.string(), True, "the kind of error, or the filter that rejected the edit"),
    ("message", pa.string(), True, "the reason, in a sentence"),
    ("notes", pa.list_(pa.string()), False, "further remarks, e.g. that a text was truncated"),
    ("caption", pa.string(), True, "what is there (the paper's reference text)"),
    ("edit_text", pa.string(), True, "what is wanted (the paper's query text)"),
    ("source_sha256", pa.string(), True, "sha256 of the image file in the input"),
    ("source_width", pa.int32(), True, "pixels, after EXIF rotation"),
    ("source_height", pa.int32(), True, "pixels, after EXIF rotation"),
    ("image_sha256", pa.string(), True, "sha256 of the image file in the tar"),
    ("width", pa.int32(), True, "pixels, of the written image"),
    ("height", pa.int32(), True, "pixels, of the written image"),
    ("mask_area", pa.float32(), True, "share of the written image inside the edit mask"),
    ("mask_box", pa.list_(pa.int32()), True, "x0, y0, x1, y1 of the mask in pixels of the output"),
    ("score_edit_rms", pa.float32(), True, "root mean square change inside the mask, in [0, 1]"),
    ("score_background_psnr_db", pa.float32(), True, "PSNR outside the mask, before the composite"),
    ("score_background_ssim", pa.float32(), True, "SSIM outside the mask, in background windows"),
    ("score_background_mse", pa.float32(), True, "MSE outside the mask, of values in [0, 1]"),
    ("score_background_psnr_frame_db", pa.float32(), True, "PIE-Bench's PSNR, over the full frame"),
    ("score_background_ssim_frame", pa.float32(), True, "PIE-Bench's SSIM, over the full frame"),
    ("score_background_mse_frame", pa.float32(), True, "PIE-Bench's MSE, over the full frame"),
    ("score_lpips", pa.float32(), True, "perceptual distance of the images before and after"),
    ("score_clip_text_before", pa.float32(), True, "cosine of the image before and the caption"),
    ("score_clip_text_after", pa.float32(), True, "cosine of the image after and the edit text"),
    ("score_clip_image", pa.float32(), True, "cosine of the images before and after"),
    ("score_clip_directional", pa.float32(), True, "cosine of the changes of image and text"),
    ("score_dino_structure", pa.float32(), True, "distance of self-similarities of DINO's keys"),
    ("score_dinov2_image", pa.float32(), True, "cosine of the images before and after"),
    ("score_aesthetic", pa.float32(), True, "aesthetic score of the image after"),
    ("score_nsfw", pa.float32(), True, "probability that the image after is not safe for work"),
    ("num_evals_mask", pa.int32(), False, "network evaluations of the mask stage"),
    ("num_evals_encode", pa.int32(), False, "of encoding, on the image's first edit; or of a fit"),
    ("num_evals_decode", pa.int32(), False, "of decoding and choosing, guidance counted as two"),
    ("method", pa.string(), False, "diffedit, sdedit or imagic"),
    ("settings", pa.string(), False, "JSON: every setting of the method as used for this row"),
    ("model", pa.string(), False, "model.path of the configuration"),
    ("model_revision", pa.string(), False, "hub commit, or sha256 of a local folder's files"),
    ("seed", pa.int64(), False, "the run's seed, or the sample's own"),
    ("fingerprint", pa.string(), False, "hash of everything that changes computed bytes"),
]

SCORE = "score_"  # prefix of every score's column
LOWER_IS_BETTER = frozenset(
    f"{SCORE}{name}"
    for name in ("background_mse", "background_mse_frame", "lpips", "dino_structure", "nsfw")
)
NEITHER_IS_BETTER = frozenset({f"{SCORE}edit_rms"})


def _metadata(name: str, meaning: str) -> dict[str, str]:
    """The metadata of a column in the Parquet file."""
    if not name.startswith(SCORE) or name in NEITHER_IS_BETTER:
        return {"meaning": meaning}
    return {"meaning": meaning, "better": "lower" if name in LOWER_IS_BETTER else "higher"}


ROW_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=nullable, metadata=_metadata(name, meaning))
        for name, kind, nullable, meaning in COLUMNS
    ]
)

# A staged part: its rows, each with its files in the order of the tar. The schema's metadata "part"
# holds JSON: shard, index, num_parts, problem, seconds, hosts, device, halvings.
STAGED_SCHEMA = ROW_SCHEMA.append(pa.field("members", MEMBERS, nullable=False))
