"""The parameters: every key of params.yaml (sections, schema), how the file is read (check), and the named recipes."""

from m2det.config.check import check_params, load_params
from m2det.config.schema import Params, dotted, parameter_keys
from m2det.config.sections.data import DataParams, PackParams, Source, WeightsParams
from m2det.config.sections.evaluate import BenchmarkParams, EvaluateParams
from m2det.config.sections.run import RunParams
from m2det.config.sections.train import ModelParams, PrecisionParams, TrainParams
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
