"""`python -m m2det`."""

import sys

from m2det.cli.main import main

sys.exit(main())
