"""Stopping in order: Ctrl-C and SIGTERM end what runs, with a sentence on how to go on."""

import signal
import sys
import threading
from contextlib import contextmanager

from probekit import arguments


class Stopped(KeyboardInterrupt, SystemExit):
    """Ctrl-C, or SIGTERM.

    It is both, so that who catches KeyboardInterrupt catches it, and a script that does not ends
    without a traceback and with `code`: 130, or 143 after SIGTERM.
    """

    def __init__(self, sentence, code):
        super().__init__(sentence)
        self.code = code


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def stoppable(how_to_go_on):
    """End the block in order when the process is told to stop, and say how to go on."""
    # Whoever has a handler of their own keeps it; other threads can't set any.
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ours = default and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt as error:
        arguments.say(f"Stopped. {how_to_go_on}", file=sys.stderr)
        code = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        raise Stopped(how_to_go_on, 128 + code) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number, frame):
    raise _Terminated
