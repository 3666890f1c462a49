"""The table of `m2det experiments`, of what DVC says on experiments in each state."""

import copy

from flows.experiments import table

PARAMS = {"epochs": 24, "run": {"device": "auto"}, "train": {"lr": 0.06, "gammas": [1.0, 0.1]}}
METRICS = {
    "results/metrics.json": {"data": {"AP": 0.77, "AP50": 0.961}},
    "results/speed.json": {"data": {"img/s": 149.312}},
}


def state(name, metrics=None, **train):
    """As `dvc exp show --json` has it."""
    params = copy.deepcopy(PARAMS) | {"epochs": train.pop("epochs", 24)}
    params["train"] |= train
    data = {
        "timestamp": "2026-11-26T13:05:00",
        "params": {"params.yaml": {"data": params}},
        "metrics": metrics or {"results/metrics.json": {"error": {"type": "FileNotFoundError"}}},
    }
    return {"rev": "0123456789", "name": name, "data": data, "error": None, "experiments": None}


def experiment(name, executor, newest):
    return {"revs": [newest], "name": name, "executor": executor and {"state": executor}}


def test_states_numbers_and_what_differs_in_the_width_of_the_terminal():
    main = state("main", METRICS)
    main["experiments"] = [
        experiment("peppy-ours", None, state("peppy-ours", METRICS, epochs=2)),
        experiment(None, "queued", state(None, lr=0.001)),
        # whose copy has the files of the commit
        experiment("long", "running", state("long", METRICS, epochs=160, lr=0.001, gammas=[1.0, 0.5, 0.25, 0.125])),
        experiment("broken", "failed", {"rev": "89abcdef", "name": None, "data": None, "error": {"msg": "no"}}),
    ]
    workspace = state("workspace", epochs=3)
    assert table([workspace, main], 100).splitlines() == [
        "experiment    state    AP     AP50   img/s  made          changed",
        "workspace                                   26 Nov 13:05  epochs=3",
        "main 0123456           0.770  0.961  149.3  26 Nov 13:05",
        "  peppy-ours  done     0.770  0.961  149.3  26 Nov 13:05  epochs=2",
        "  0123456     queued                        26 Nov 13:05  train.lr=0.001",
        "  long        running                       26 Nov 13:05  epochs=160 train.lr=0.001",
        "                                                          train.gammas=[1.0,0.5,0.25,0.125]",
        "  broken      failed",
    ]


def test_an_ap_that_is_not_defined_is_explained_once():
    undefined = {"results/metrics.json": {"data": {"AP": -1, "AP50": -1}}}
    lines = table([state("workspace", undefined), state("main", undefined)], 100).splitlines()
    assert lines[1].split()[:3] == ["workspace", "-1.000", "-1.000"]
    assert lines[3:] == ["AP (-1: not defined, validation has no box)"]
