"""Worker processes end with the process that runs the scan."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["end_with_parent"]

_SECONDS = 1.0
_WATCHED: set[int] = set()


def end_with_parent(parent: int) -> None:
    """Watch the parent process from a worker of its own, and leave when it is gone.

    A process that is killed cannot end its workers; they would go on fitting for nobody.

    Parameters
    ----------
    parent : int
        Process that runs the scan; nothing happens in that process itself or in workers that others have started.
    """
    if os.getpid() == parent or os.getppid() != parent or parent in _WATCHED:
        return
    _WATCHED.add(parent)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
