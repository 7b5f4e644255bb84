"""ICC profiles, written out by hand (ICC.1:2001-04, version 2.4), so that tests need no files."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Columns: red, green and blue of the color space, adapted to D50 by Bradford's method.
DISPLAY_P3 = ((0.51512, 0.29198, 0.1571), (0.2412, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.7141))


def srgb_curve(value: np.ndarray) -> np.ndarray:
    """Linear light of values in [0, 1] (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def rgb_profile(
    name: str, primaries: tuple[tuple[float, ...], ...], curve: Callable = srgb_curve
) -> bytes:
    """Three primaries and one curve for all of them."""
    columns = np.array(primaries).T
    tags = {f"{letter}XYZ": _xyz(column) for letter, column in zip("rgb", columns, strict=True)}
    tags |= {f"{letter}TRC": _curve(curve) for letter in "rgb"}
    return _profile("RGB ", "XYZ ", name, tags)


def gray_profile(name: str, curve: Callable) -> bytes:
    """A curve from black to white."""
    return _profile("GRAY", "XYZ ", name, {"kTRC": _curve(curve)})


def cmyk_profile(name: str) -> bytes:
    """Inks that give CIELAB colors: paper, cyan, magenta, yellow, and black over all of them."""
    inks = {(1, 0, 0): (55, -37, -50), (0, 1, 0): (48, 74, -3), (0, 0, 1): (89, -5, 93)}
    inks |= {(1, 1, 0): (24, 22, -46), (1, 0, 1): (50, -68, 25), (0, 1, 1): (47, 68, 48)}
    inks |= {(0, 0, 0): (100, 0, 0), (1, 1, 1): (23, 0, 0)}
    table = b""
    for number in range(16):  # cyan varies slowest
        cyan, magenta, yellow, black = (number >> shift & 1 for shift in (3, 2, 1, 0))
        light, *chroma = (0, 0, 0) if black else inks[cyan, magenta, yellow]
        table += bytes([round(light * 2.55), *(value + 128 for value in chroma)])
    ramp = bytes(range(256))
    identity = [65536, 0, 0, 0, 65536, 0, 0, 0, 65536]
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *identity)
    return _profile("CMYK", "Lab ", name, {"A2B0": lut + 4 * ramp + table + 3 * ramp}, "prtr")


def _profile(
    space: str, connection: str, name: str, tags: dict[str, bytes], kind: str = "mntr"
) -> bytes:
    tags = {"desc": _description(name), "wtpt": _xyz(D50)} | tags
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for signature, data in tags.items():
        data += bytes(-len(data) % 4)
        table += signature.encode() + struct.pack(">II", place + len(body), len(data))
        body += data
    header = struct.pack(
        ">II I4s4s4s 12x 4s 28x 3i 48x",
        place + len(body), 0, 0x02400000,
        kind.encode(), space.encode(), connection.encode(), b"acsp",
        *(round(value * 65536) for value in D50),
    )  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + body


def _description(name: str) -> bytes:
    text = name.encode("latin-1") + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)


def _xyz(values: object) -> bytes:
    fixed = np.round(np.asarray(values, np.float64) * 65536).astype(">i4")
    return b"XYZ " + bytes(4) + fixed.tobytes()


def _curve(curve: Callable) -> bytes:
    values = np.round(65535 * curve(np.linspace(0, 1, 1024))).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + values.tobytes()
