"""Run the command line as `python -m lookonce`."""

import sys

from .cli import main

sys.exit(main())
