"""The command `train`, whose processes wait until they are asked to end, when they look for it the HELD_AT-th time."""

import os
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

from nas.train.__main__ import main

asked, looks_left = Event.is_set, int(os.environ["HELD_AT"])


def is_set(event: Event) -> bool:
    global looks_left
    looks_left -= 1
    if looks_left > 0:
        return asked(event)
    Path(os.environ["HELD"]).touch()
    return event.wait()


Event.is_set = is_set  # here and in the training's processes, which import this file

if __name__ == "__main__":
    sys.exit(main())
