"""Imported last by the server of ``machine/pool.py``, which then ends at once: Python needs seconds to unload torch."""

import atexit
import os

atexit.register(os._exit, 0)
