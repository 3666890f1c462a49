"""M2Det: a single-shot detector on a multi-level feature pyramid (Zhao et al., AAAI 2019).

Importing the package costs nothing; the parts import what they need:
`m2det.model` the network, `m2det.data` the data path, `m2det.train` the training,
`m2det.evaluate` detections and metrics, `m2det.ops` the compiled non-maximum suppression.
"""

__version__ = "0.1.0"
