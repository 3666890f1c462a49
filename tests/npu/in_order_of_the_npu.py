"""`-m tests.npu.in_order_of_the_npu`: m2det.train.rank, but the CPU adds up in the NPU's order, channels first."""

import sys
from dataclasses import replace

from m2det.device import TRAITS
from m2det.train import optim
from m2det.train.rank import main

if __name__ == "__main__":
    TRAITS["cpu"] = replace(TRAITS["cpu"], channels_last=False)
    optim.optimizer_kernels = lambda *_: ("foreach", "as on the chip that these tests simulate")
    main(*sys.argv[1:])
