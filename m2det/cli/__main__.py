"""`python -m m2det.cli`."""

import sys

from m2det.cli.main import main

sys.exit(main())
