"""Progress: one line per run that changes in place on a terminal, plain lines with the time in a log."""

import contextlib
import os
import sys
import threading
import time

from tqdm import tqdm

QUIET = 5.0  # seconds between two epoch lines of one run in a log
MOST = 20  # runs shown at once on a terminal; of more, plain lines are easier to follow


class Progress:
    """Where chains say how they get on.

    Args:
        names: of the runs, as they are to be shown.
    """

    def __init__(self, names: list[str]) -> None:
        """Decide whether somebody watches."""
        # some terminals, such as a recorded one, have no width to write into
        self.live = sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0 and len(names) <= MOST
        self.names = names
        self._lines: dict[str, tqdm] = {}
        self._spoken: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        """Begin the lines."""
        print(f"to run: {', '.join(self.names)}", flush=True)
        if self.live:
            for place, name in enumerate(self.names):
                self._lines[name] = tqdm(total=0, position=place, bar_format="{desc}", file=sys.stdout)
                self._lines[name].set_description_str(f"{name}: waiting")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the lines as they are."""
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.close()

    def say(self, name: str, text: str) -> None:
        """Tell what begins, ends or fails."""
        self._show(name, text)

    def tick(self, name: str, text: str) -> None:
        """Tell an epoch; a log has them all already, so only one in a while is printed."""
        now = time.monotonic()
        if self.live or now - self._spoken.get(name, -QUIET) >= QUIET:
            self._spoken[name] = now
            self._show(name, text)

    def _show(self, name: str, text: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        with self._lock:
            line = self._lines.get(name)
            if line is not None:
                line.set_description_str(f"{name}: {text} ({stamp})")
            elif self._lines:
                tqdm.write(f"{stamp} {name}: {text}", file=sys.stdout)
            else:
                print(f"{stamp} {name}: {text}", flush=True)
