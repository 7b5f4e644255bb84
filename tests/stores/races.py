"""Writers that put the same name at the same time."""

from __future__ import annotations

import threading
from typing import Any

from pipeline.storage.store import Store


def race_to_put(
    url: str, storage_options: dict[str, Any], name: str, writers: int = 16
) -> list[int]:
    """Each writer puts its number if absent, in its own thread and with its own store.

    Returns:
        The numbers of the writers that were told that they wrote the object.
    """
    won: list[int] = []

    def put(number: int) -> None:
        if Store(url, storage_options).put_if_absent(name, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won
