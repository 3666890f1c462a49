"""Train a detector by one call: the stages data, pack, weights and train in one folder, without DVC."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from m2det.config import Params
from m2det.data.packed.reader import cache_digest
from m2det.detect.detector import Detector
from m2det.detect.packing import pack_folder
from m2det.detect.settings import Data, recipe_params
from m2det.distributed.children import run_child
from m2det.distributed.cores import check_workers
from m2det.distributed.launch import count_processes, needs_torchrun
from m2det.errors import InputError, explain_disk_errors
from m2det.files.hashing import digest, file_sha256
from m2det.files.locks import locked
from m2det.files.whole import write_whole
from m2det.model.initial import write_initial
from m2det.model.model_file import load_trained, save_trained
from m2det.train.card import training_card
from m2det.train.logger import write_curves
from m2det.train.rank import train_distributed
from m2det.train.run_dir import write_run_config
from m2det.train.state import TrainResult
from m2det.train.trainer import train

log = logging.getLogger(__name__)

MODEL = "m2det.safetensors"  # in the folder
SHAPE = ("epochs", "seed", "model", "train", "precision")  # of a training, with hashes of its data and backbone


def train_detector(data: Data, out: str | Path, recipe: str = "own", device: str = "auto", **changes: Any) -> Detector:
    """Train a detector on photos with boxes; the same call continues what was interrupted, and returns what is done.

    Args:
        data: A folder in COCO's, YOLO's or Pascal VOC's format, recognised by its files; or a section `data` of
            params.yaml, such as {"root": folder, "val_share": 0.1}.
        out: The folder that takes m2det.safetensors, curves.csv and log.txt, beside them the packed cache and what is
            unfinished. Backbones that are fetched are kept in models/downloads of the current folder.
        recipe: As for `m2det use`.
        device: auto, cpu, cuda or npu.
        changes: Of the recipe, as in params.yaml: `epochs`, `seed`, and sections such as train={"max_steps": 100}.

    Returns:
        The detector with the weights that train.keep says, read from the model file.

    Raises:
        InputError: Data or settings are wrong.
        SystemExit: A signal stopped the training, after a checkpoint; Ctrl-C does so, too.
    """
    params = recipe_params(data, recipe, changes, "train_detector", device)
    folder, model_file = Path(out), Path(out) / MODEL
    _check_out(folder, Path(params.data.root))
    processes = count_processes(params)
    check_workers(params, processes)
    params.train.accumulation(processes * params.run.nodes)
    with explain_disk_errors(folder), locked(folder):
        cache, backbone = pack_folder(params, folder), folder / "backbone.safetensors"
        write_initial(backbone, params.weights, params.model.name, params.seed, Path())
        shape = params.section(*SHAPE)
        hashes = {
            "cache": cache_digest(cache),
            "backbone": file_sha256(backbone),
            "params": digest(json.dumps(shape, sort_keys=True).encode()),
        }
        if model_file.is_file():
            model, card = load_trained(model_file)
            if card["hashes"] == hashes:
                log.info("%s is up to date", model_file)
                return Detector(model, card, device)
        run_dir = folder / "unfinished" / digest(json.dumps(hashes).encode())[:12]
        run_dir.mkdir(parents=True, exist_ok=True)
        write_run_config(run_dir, shape | {"hashes": hashes})
        outcome = _train(params, cache, backbone, run_dir, processes, folder / "curves.csv")
        write_curves(folder / "curves.csv", outcome.rows)
        write_whole(folder / "log.txt", (run_dir / "log.txt").read_bytes())
        save_trained(model_file, outcome.model, training_card(params, cache, outcome, hashes))
        shutil.rmtree(run_dir)
        log.info("%s is written", model_file)
    return Detector(*load_trained(model_file), device)


def _check_out(folder: Path, root: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out: {folder} is no folder; name one, which is made where it does not exist")
    if folder.resolve().is_relative_to(root.resolve()):
        raise InputError(f"out: {folder} lies in the data's folder, {root}, where its files would be taken for data")


def _train(
    params: Params, cache: Path, backbone: Path, run_dir: Path, processes: int, curves_file: Path
) -> TrainResult:
    if not needs_torchrun(params, processes):
        return train(params, cache, backbone, run_dir, run_dir / "log.txt", curves_file=curves_file)
    params_file = run_dir / "params.yaml"
    with params_file.open("w", encoding="utf-8") as file:
        YAML().dump(params.model_dump(mode="json"), file)
    return train_distributed(params, params_file, cache, backbone, run_dir, processes, run_child, curves_file)
