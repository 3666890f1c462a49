"""Stage `weights`: the backbone or the model that training starts from."""

from __future__ import annotations

import logging
import sys

from tasks.common import BACKBONE, main_root, params


def weights() -> None:
    """Write models/backbone.safetensors from weights.source: a backbone, or a whole model.

    What is fetched is kept in models/downloads of the main working copy, where DVC deletes nothing.
    """
    from m2det.model.initial import write_initial

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    write_initial(BACKBONE, params().weights, params().model.name, params().seed, main_root())
