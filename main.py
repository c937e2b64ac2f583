"""AFA, attentive feature alignment, from the command line: ``python main.py CONFIG [key=value ...]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with python -I or PYTHONSAFEPATH
from afa.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
