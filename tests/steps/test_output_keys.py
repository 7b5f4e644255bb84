"""Keys of the output: names stay in their folder, and two samples never share one."""

from __future__ import annotations

import pytest

from pipeline.steps.output_keys import output_key, output_suffix


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("plain/key", "plain/key_0"),
        ("a.b", "a%2Eb_0"),
        ("100%", "100%25_0"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd_0"),
        ("/abs", "%2Fabs_0"),
        ("//x//y", "%2F%2Fx/%2Fy_0"),
        ("..\\x", "%2E%2E%5Cx_0"),
        ("a\nb\0", "a%0Ab%00_0"),
        ("__a__/b", "%5F_a__/b_0"),
        ("a/__b__/_c", "a/__b__/_c_0"),
        ("with space/猫", "with space/猫_0"),
    ],
)
def test_output_keys_stay_in_their_folder(key: str, encoded: str) -> None:
    """No dot, no absolute path, no backslash, no control character."""
    assert output_key(key, 0) == encoded


def test_output_keys_are_never_equal() -> None:
    """Different edits have different names, also where a key looks like an encoded one."""
    keys = ["a", "a_1", "a.b", "a%2Eb", "a%252Eb", "/a", "%2Fa", "a//b", "a/%2Fb", "a/b"]
    keys += ["__a__/b", "%5F_a__/b", "_a__/b"]
    names = {output_key(key, index) for key in keys for index in range(12)}
    assert len(names) == len(keys) * 12
    suffixes = ["png", "source.png", "_x", "source._x", "", "x"]
    assert len({output_suffix(suffix, {"png"}) for suffix in suffixes}) == len(suffixes)
