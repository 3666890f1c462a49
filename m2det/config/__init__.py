"""The typed form of params.yaml (schema) and the named recipes."""

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
    check_params,
    dotted,
    file_of_address,
    load_params,
    parameter_keys,
)

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
]
