"""AFA, attentive feature alignment, from the command line: ``python main.py CONFIG [key=value ...]``."""

import signal
import sys

if __name__ == "__main__":
    # Until the run takes its signals itself, Ctrl-C ends the program like any other: raised inside
    # an import, a KeyboardInterrupt is a long traceback, and an abort where torch's own code is being loaded.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from afa.command_line import main

    sys.exit(main())
