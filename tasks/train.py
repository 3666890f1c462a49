"""Stage `train`: from the cache and a backbone to a model file, its metrics and its curves."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m2det.data.packed.reader import cache_digest
from m2det.distributed.children import run_child
from m2det.errors import explain_disk_errors
from m2det.files.hashing import digest, digest_files
from m2det.files.inputs import select
from m2det.files.locks import locked
from m2det.files.whole import write_whole
from tasks.common import BACKBONE, CACHE, METRIC_DECIMALS, MODEL, RESULTS, main_root, params, sources, write_json
from tasks.inputs import finished_in, inputs_of, require_unchanged
from tasks.provenance import describe_commit, write_provenance

if TYPE_CHECKING:
    from m2det.train.state import TrainResult

CURVES = RESULTS / "curves.csv"
FINGERPRINT_SECTIONS = ("epochs", "seed", "model", "train", "precision")  # with hashes of data, backbone and code


def train() -> None:
    """Write models/m2det.safetensors and .json, results/train.json, results/curves.csv and results/log.txt.

    The state of an unfinished run lies in its run directory, models/unfinished/<fingerprint>/ of the main working copy,
    where DVC deletes nothing; the fingerprint covers everything that shapes the numbers, so only the same run resumes
    it. The directory also has copies of the inputs, params.yaml among them, which every process reads. If inputs have
    changed by the end, the finished state stays there, to be published later. The curves grow during training, for
    those who look on; all else appears at the end.
    """
    from m2det.distributed.cores import check_workers
    from m2det.distributed.launch import count_processes, needs_torchrun
    from m2det.train.rank import train_distributed
    from m2det.train.run_dir import write_run_config
    from m2det.train.trainer import train as train_alone

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    commit = describe_commit()
    processes = count_processes(params())
    check_workers(params(), processes)
    params().train.accumulation(processes * params().run.nodes)  # raises InputError if it is no whole number
    shape = params().section(*FINGERPRINT_SECTIONS)
    hashes = {**_hashes(), "params": digest(json.dumps(shape, sort_keys=True).encode())}
    unfinished = main_root() / "models" / "unfinished" / digest(json.dumps(hashes).encode())[:12]
    with locked(unfinished):
        with explain_disk_errors(unfinished):
            write_run_config(unfinished, shape | {"hashes": hashes})
            frozen_params = finished_in("train", unfinished)  # an edit cannot give processes different values
        if needs_torchrun(params(), processes):
            outcome = train_distributed(
                params(), frozen_params, CACHE, BACKBONE, unfinished, processes, run_child, CURVES
            )
        else:
            outcome = train_alone(params(), CACHE, BACKBONE, unfinished, unfinished / "log.txt", curves_file=CURVES)
        require_unchanged("train")
        _publish(outcome, hashes, unfinished)
        write_provenance(MODEL, commit, processes * params().run.nodes)


def _hashes() -> dict[str, str]:
    return {
        "cache": cache_digest(CACHE),
        "backbone": hashlib.sha256(BACKBONE.read_bytes()).hexdigest(),
        "code": digest_files([*sources("train"), Path("m2det/ops/nms.pyx")], Path()),
    }


def _publish(outcome: TrainResult, hashes: dict[str, str], unfinished: Path) -> None:
    """Write the outputs, the model last."""
    from m2det.model.model_file import save_trained
    from m2det.train.card import training_card
    from m2det.train.logger import write_curves

    inputs = inputs_of("train")
    card = training_card(params(), CACHE, outcome, hashes) | {
        "params": select(params().model_dump(mode="json"), inputs.keys),
        "deps": inputs.md5_of_deps(),
    }
    kept = outcome.kept_row
    write_curves(CURVES, outcome.rows)
    write_whole(RESULTS / "log.txt", (unfinished / "log.txt").read_bytes())
    # the whole course of the training is in the curves
    write_json(RESULTS / "train.json", {name: round(kept[name], METRIC_DECIMALS) for name in ("AP", "AP50")})
    save_trained(MODEL, outcome.model, card)
