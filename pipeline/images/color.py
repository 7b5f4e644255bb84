"""Colors become sRGB: what an embedded ICC profile says is converted by LittleCMS.

Models are trained on sRGB, and an edited image is written without a profile. Only a profile counts:
gamma and chromaticities of PNG (gAMA, cHRM, cICP) are not read.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 2**22  # those of printers have up to 3 MB
MAX_NAME = 60  # characters of a profile's name in a note
# Largest difference to sRGB, in levels of 255, of a profile that is sRGB: profiles of that name
# differ by one or two, in their rounding and in the tables of their curves.
SRGB_TOLERANCE = 2
BROKEN_NOTE = "the embedded color profile cannot be used and was ignored"
ICC_SEGMENT = b"ICC_PROFILE\0"
GRAY_MODES = ("1", "L", "LA")
# Modes of images that a profile of a color space describes. Gray files often have an RGB profile.
DESCRIBED = {"RGB": ("RGB", "L"), "GRAY": ("L",), "CMYK": ("CMYK",)}


class _ProfileError(Exception):
    """A profile that does not describe the image, or that LittleCMS cannot read."""


def to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Converts an image without alpha to mode RGB, by its profile if it has one.

    Args:
        image: of 8 bits a channel.
        profile: as embedded in the file; None and empty are taken as sRGB, or as plain CMYK.
        notes: is told of a conversion, and of a profile that cannot be used.
    """
    if image.mode == "LAB":  # needs no profile
        profile = None
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    if not profile:
        return image.convert("RGB")
    try:
        mode, name, transform = _conversion(profile, image.mode)
    except (_ProfileError, ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append(BROKEN_NOTE)
        return image.convert("RGB")
    if transform is None:
        return image.convert("RGB")
    notes.append(f"the colors were converted from the embedded profile {name} to sRGB")
    return _transformed(image.convert(mode), transform)


def lacks_a_piece(image: Image.Image) -> bool:
    """Whether a JPEG, as opened, has pieces of a profile that are no whole one: Pillow drops them.

    (ICC.1:2022, B.4: a profile of more than 64 KiB is stored in several segments.)
    """
    segments = getattr(image, "applist", ())
    has_piece = any(kind == "APP2" and data.startswith(ICC_SEGMENT) for kind, data in segments)
    return has_piece and not image.info.get("icc_profile")


# A transform takes milliseconds to build, and most images of a dataset have one of few profiles.
@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> tuple[str, str, ImageCms.ImageCmsTransform | None]:
    """(mode to convert from, name of the profile, transform); no transform if it is sRGB."""
    if len(profile) > MAX_PROFILE_BYTES:
        raise _ProfileError
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if mode not in DESCRIBED.get(space, ()):
        raise _ProfileError
    wanted = "RGB" if space == "RGB" else mode
    transform = _transform(opened, wanted)
    is_srgb = wanted != "CMYK" and _changes_nothing(transform, wanted)
    return wanted, _name(opened), None if is_srgb else transform


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """To sRGB, perceptual where the profile has that intent."""
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves all grays, or a grid of colors, as they are."""
    levels = np.arange(0, 256, 1 if mode == "L" else 15, dtype=np.uint8)
    if mode == "L":
        values = Image.fromarray(levels[None])
    else:
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        values = Image.fromarray(grid.reshape(len(levels), -1, 3))
    before = np.asarray(values.convert("RGB"), np.int16)
    after = np.asarray(_transformed(values, transform), np.int16)
    return int(np.abs(before - after).max()) <= SRGB_TOLERANCE


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    """The profile's own name as one short line; whoever made the file chose it."""
    text = profile.profile.profile_description or ""
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    return " ".join(words)[:MAX_NAME].rstrip() or "without a name"
