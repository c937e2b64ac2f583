"""AFA, attentive feature alignment, from the command line: ``python main.py CONFIG [key=value ...]``."""

import sys

from afa.machine.signals import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()
    from afa.command_line import main

    sys.exit(main())
