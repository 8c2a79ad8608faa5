"""The `forebay` command: the only room that imports every other."""

import os
import signal

if os.getpid() == 1:
    # The kernel ignores a signal for which the first process of a container has no handler. A pod that is told to end while its
    # program still starts would stay for its whole grace period; commands set handlers of their own, a second of imports later.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
