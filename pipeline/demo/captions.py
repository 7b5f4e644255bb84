"""The captions of the demo world: they say in plain English what is in a scene."""

from __future__ import annotations

from pipeline.demo.world import Scene, SceneObject

# {objects}: "a red circle and a blue star"; {background}: "a brick wall".
PHRASINGS = (
    "{objects} on {background}",
    "{objects} in front of {background}",
    "a picture of {objects} on {background}",
    "{background} with {objects}",
)


def object_phrase(item: SceneObject) -> str:
    """An object with its article: "a red circle", "an orange star"."""
    article = "an" if item.color[0] in "aeiou" else "a"
    return f"{article} {item.color} {item.shape}"


def caption(scene: Scene, phrasing: int = 0) -> str:
    """The caption of a scene in one of the phrasings; objects are in the scene's own order.

    Args:
        phrasing: 0 to len(PHRASINGS) - 1.
    """
    phrases = [object_phrase(item) for item in scene.objects]
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return PHRASINGS[phrasing].format(objects=listed, background=scene.background)
