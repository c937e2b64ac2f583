"""Reports. matplotlib logs a warning when it is imported and finds no home folder, which is of no use to the user."""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)
