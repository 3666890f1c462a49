"""The parameters: every key of params.yaml (schema), how the file is read (check), and the named recipes."""

from m2det.config.check import check_params, load_params
from m2det.config.schema import (
    BenchmarkParams,
    DataParams,
    EvaluateParams,
    ModelParams,
    PackParams,
    Params,
    PrecisionParams,
    RunParams,
    Source,
    TrainParams,
    WeightsParams,
    dotted,
    parameter_keys,
)
from m2det.config.values import file_of_address, rendezvous_address

__all__ = [
    "BenchmarkParams",
    "DataParams",
    "EvaluateParams",
    "ModelParams",
    "PackParams",
    "Params",
    "PrecisionParams",
    "RunParams",
    "Source",
    "TrainParams",
    "WeightsParams",
    "check_params",
    "dotted",
    "file_of_address",
    "load_params",
    "parameter_keys",
    "rendezvous_address",
]
