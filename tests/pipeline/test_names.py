"""Names that people type, and orders that files share."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.demo import demo
from flows.parameters import STAGES, check_stages
from flows.pipeline import m2det
from flows.settings import checked_settings
from flows.slurm import slurm
from m2det.config.recipes import use_recipe
from m2det_prefect import deployments, expand, full_names, is_command
from tasks.common import main_root
from tasks.train import FINGERPRINT_SECTIONS
from tests.conftest import ROOT


def test_the_flow_runs_dvcs_stages_in_their_order():
    assert list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]) == list(STAGES)


def test_every_dependency_is_made_by_an_earlier_stage_or_is_a_file_of_the_project():
    made: set[str] = set()
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        for path in stage["deps"]:
            is_source = Path(path).parts[0] not in ("build", "data", "models", "results") and (ROOT / path).exists()
            assert is_source or path in made, (name, path)
        outputs = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        made |= {entry if isinstance(entry, str) else next(iter(entry)) for entry in outputs}


def test_the_fingerprint_of_a_run_covers_the_parameters_of_its_stage():
    params = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["params"]
    assert set(params) - set(FINGERPRINT_SECTIONS) == {"weights.min_match"}, "which only refuses"
    assert set(FINGERPRINT_SECTIONS) <= set(params) and "run" not in FINGERPRINT_SECTIONS


def test_deployments_are_read_from_prefect_yaml():
    assert [entry["name"] for entry in deployments(ROOT / "prefect.yaml")] == [
        *(
            "digits",
            "train-1p",
            "train-8p",
            "eval-8p",
            "performance-1p",
            "performance-8p",
            "finetune-1p",
            "demo",
            "slurm",
        )
    ]
    assert deployments(Path("no-such-file.yaml")) == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run digits", "prefect deployment run m2det/digits"),
        ("prefect deployment run digits --watch", "prefect deployment run m2det/digits --watch"),
        ("prefect deployment run --watch digits", "prefect deployment run --watch m2det/digits"),
        ("prefect deployment run -p epochs=3 digits", "prefect deployment run -p epochs=3 m2det/digits"),
        ("prefect deployment inspect digits", "prefect deployment inspect m2det/digits"),
        ("prefect deployment run demo -p folder=digits", "prefect deployment run demo/demo -p folder=digits"),
        ("prefect deployment run m2det/digits", "prefect deployment run m2det/digits"),
        ("prefect deployment run other", "prefect deployment run other"),
        ("prefect deployment run --tag digits other", "prefect deployment run --tag digits other"),
    ],
)
def test_bare_names_are_expanded(typed, meant):
    assert is_command(typed.split())
    assert " ".join(expand(typed.split(), full_names(deployments(ROOT / "prefect.yaml")))) == meant


def test_flows_are_named_like_their_functions():
    """By which the plugin knows their names without importing them."""
    assert (m2det.name, demo.name, slurm.name) == ("m2det", "demo", "slurm")


def test_every_deployment_has_settings_of_its_own(tmp_path, monkeypatch):
    """What params.yaml holds from another recipe reaches none of them."""
    use_recipe("coco800-8p", Path(shutil.copy(ROOT / "params.yaml", tmp_path)))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("  root: ''", "  root: /data/coco"))
    names = {"digits": "m2det-tiny", "eval-8p": "m2det800-vgg16"}
    for entry in deployments(ROOT / "prefect.yaml")[:-2]:
        parameters = entry["parameters"]
        assert f"Recipe {parameters.get('recipe', '')}".strip() in entry["description"].replace("No recipe", "Recipe")
        settings = checked_settings(parameters.get("recipe"), parameters.get("overrides", {}))
        assert settings["run"]["processes"] == {"8p": 8, "1p": 1}.get(entry["name"].rpartition("-")[2], "auto")
        assert settings["model"]["name"] == names.get(entry["name"], "m2det512-vgg16")
        check_stages(parameters.get("stages", []))
        # the evaluation is of the model that is there, by the settings that belong to it
        assert ("recipe" in parameters) == (entry["name"] != "eval-8p")


def test_other_commands_are_left_alone():
    assert not is_command(["prefect", "work-pool", "create", "digits"])


@pytest.mark.parametrize("copy", [".dvc/tmp/runs/digits-1/project", ".dvc/tmp/exps/tmp1", ""])
def test_what_must_last_lies_in_the_working_copy(tmp_path, monkeypatch, copy):
    (tmp_path / copy).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / copy)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert main_root() == tmp_path.resolve()
