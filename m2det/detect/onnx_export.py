"""A network as an ONNX graph that Ascend's compiler reads: opset 17, IR 8, and what it is in its metadata.

CANN's atc takes ONNX 1.12: opset 17 at most by what others found, IR 8. torch's newer exporter (dynamo=True) writes
opset 18 and IR 10, without an error also where 17 was asked for; the older one writes both as asked.
"""

from __future__ import annotations

import json
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m2det.errors import InputError
from m2det.model import M2Det
from m2det.model.exported import ExportedDetector
from m2det.model.preprocess import MEAN_BGR

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 17, 8
MAX_PER_CLASS, NMS_IOU, NMS_SCORE = 100, 0.45, 0.05  # of the NMS inside


def make_onnx(model: M2Det, card: dict[str, Any], images: Tensor, batch: int, nms: bool) -> ModelProto:
    """Return the graph of a trained network, with its outputs `boxes` and `scores` as of ExportedDetector.

    Args:
        model: In eval mode, on the CPU.
        card: The model's.
        images: float32 [B,3,S,S] BGR from 0 to 255, an example; B is `batch`, if that is not 0.
        batch: Fixed size of the batch, without any computation of shapes; 0 for any size.
        nms: Add the output `selected`, int64 [K,3]: (image, class from 0, prior) of the boxes that hard NMS keeps.

    Raises:
        InputError: The graph is of another version than Ascend's compiler reads.
    """
    import onnx
    import onnxslim

    names = ["images", "boxes", "scores"]
    axes = {} if batch else {name: {0: "batch"} for name in names}
    content = BytesIO()  # a name of a file would have to be UTF-8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # sizes become constants, on purpose
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the older exporter: see above
        torch.onnx.export(
            ExportedDetector(model).eval(),
            (images,),
            content,  # type: ignore[arg-type]
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnxslim.slim(onnx.load_from_string(content.getvalue()))
    if nms:
        _add_nms(graph)
    _add_metadata(graph, model, card, nms)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in graph.opset_import}
    if opsets != {"ai.onnx": OPSET} or graph.ir_version != IR_VERSION:
        raise InputError(
            f"the exporter wrote opsets {opsets} and IR {graph.ir_version}; Ascend's atc reads opset {OPSET} and IR "
            f"{IR_VERSION}: install the versions of onnx, onnxslim and torch that constraints.txt names"
        )
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _add_nms(model: ModelProto) -> None:
    """Add ONNX's NonMaxSuppression with all five inputs: with fewer, a version of atc crashed."""
    from onnx import TensorProto, helper

    constants: dict[str, tuple[int, list[Any]]] = {
        "nms_max": (TensorProto.INT64, [MAX_PER_CLASS]),
        "nms_iou": (TensorProto.FLOAT, [NMS_IOU]),
        "nms_score": (TensorProto.FLOAT, [NMS_SCORE]),
        "nms_from": (TensorProto.INT64, [1]),
        "nms_to": (TensorProto.INT64, [2**31 - 1]),
        "nms_axis": (TensorProto.INT64, [2]),
    }
    graph = model.graph
    for name, (kind, values) in constants.items():
        graph.initializer.append(helper.make_tensor(name, kind, [1], values))
    # without the background, [B,P,C+1] -> [B,C,P]
    graph.node.append(helper.make_node("Slice", ["scores", "nms_from", "nms_to", "nms_axis"], ["nms_scores"]))
    graph.node.append(helper.make_node("Transpose", ["nms_scores"], ["nms_by_class"], perm=[0, 2, 1]))
    inputs = ["boxes", "nms_by_class", "nms_max", "nms_iou", "nms_score"]
    graph.node.append(helper.make_node("NonMaxSuppression", inputs, ["selected"]))
    graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, ["K", 3]))


def _add_metadata(graph: ModelProto, model: M2Det, card: dict[str, Any], nms: bool) -> None:
    outputs = "boxes [B,P,4]: x1, y1, x2, y2 in [0,1]; scores [B,P,C+1]: background first"
    if nms:
        outputs += f"; selected [K,3]: image, class from 0, prior, kept by NMS of IoU {NMS_IOU} from score {NMS_SCORE}"
    metadata = {
        "names": json.dumps(card["classes"]),
        "category_ids": json.dumps(card["category_ids"]),
        "input_size": str(model.config.size),
        "input": "images [B,3,S,S]: the whole image resized to S x S, BGR, float32 from 0 to 255, mean not subtracted",
        "channels": "BGR",
        "mean_bgr": json.dumps(MEAN_BGR),
        "outputs": outputs,
        "model": card["model"],
    }
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
