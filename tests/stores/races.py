"""Writers that want the same name at once."""

from __future__ import annotations

import threading
from typing import Any

from pipeline.storage.store import Store


def race_to_put(
    url: str, storage_options: dict[str, Any], name: str, writers: int = 16
) -> list[int]:
    """Each writer, in a thread and with a store of its own, puts its number if absent.

    Returns:
        The numbers of those that were told that they have written it.
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
