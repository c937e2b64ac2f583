"""AFA, attentive feature alignment, from the command line: ``python main.py CONFIG [key=value ...]``."""

import sys

from afa.command_line import main

if __name__ == "__main__":
    sys.exit(main())
