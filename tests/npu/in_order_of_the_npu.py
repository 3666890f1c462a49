"""`-m tests.npu.in_order_of_the_npu`: m2det.train, but the CPU adds up in the NPU's order, channels first."""

import sys

from m2det.device import TRAITS, Traits
from m2det.train.__main__ import main

if __name__ == "__main__":
    TRAITS["cpu"] = Traits(half=TRAITS["cpu"].half, channels_last=False)
    main(*sys.argv[1:])
