"""Two clones make the same bytes, and a model proves what it was made from; a real DVC."""

import json

import dvc.api
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from m2det.model.model_file import load_trained
from tests.pipeline.conftest import SHORT, Clone, make_clone
from tests.squares import make_material

pytestmark = pytest.mark.slow

EQUAL = (
    *("data/cache", "models/backbone.safetensors", "models/m2det.safetensors"),
    *("results/train.json", "results/curves.csv", "results/detections.json", "results/metrics.json"),
)


def md5_of_outputs(clone: Clone) -> dict[str, str]:
    stages = YAML(typ="safe").load(clone.folder / "dvc.lock")["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}


@pytest.fixture(scope="module")
def clones(tmp_path_factory) -> list[Clone]:
    """Two clones in which one process has trained three steps, on 14 images beside the clones."""
    data = tmp_path_factory.mktemp("data")
    make_material(data)
    made = [make_clone(tmp_path_factory.mktemp("clone")) for _ in range(2)]
    for clone in made:
        source = {"  source: digits": "  source: coco", "  root: ": f"  root: {data}"}
        source |= {f"  {name}: []": f"  {name}: [{{annotations: a.json, images: images}}]" for name in ("train", "val")}
        clone.edit(SHORT | source | {"  processes: ": "  processes: 1"})
    both(made, "dvc", "repro", "evaluate")
    return made


def both(clones: list[Clone], *command: str) -> None:
    """Run the command in the clones at once."""
    running = [clone.start(*command) for clone in clones]
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def test_a_model_proves_what_it_was_made_from(clones):
    clone, folder = clones[0], clones[0].folder
    _, card = load_trained(folder / "models/m2det.safetensors")
    entry = YAML(typ="safe").load(folder / "dvc.lock")["stages"]["train"]
    assert card["deps"] == {dep["path"]: dep["md5"] for dep in entry["deps"]}
    assert card["params"]["train.lr"] == entry["params"]["params.yaml"]["train"]["lr"]
    assert not [key for key in card["params"] if key.startswith("run.")]
    made = json.loads((folder / "models/m2det.json").read_text())
    assert made["git"]["edited"] == ["params.yaml"] and made["git"]["dirty"]
    done = clone.run("m2det", "verify", "--deep", "models/m2det.safetensors")
    assert "the largest difference of 12 numbers is 0" in done.stdout and "meets dvc.lock" in done.stdout
    code = folder / "m2det/boxes.py"
    before = code.read_text()
    code.write_text(before + "\n")
    done = clone.run("m2det", "verify", "models/m2det.safetensors", ok=False)
    code.write_text(before)
    assert done.returncode == 1 and done.stdout.startswith("m2det/boxes.py: other code than the model's")


def test_dvcs_registry_knows_the_model(clones):
    clone, model = clones[0], "models/m2det.safetensors"
    clone.shell("git -c user.name=t -c user.email=t@localhost tag -am 'released' m2det@v1.2.0")
    assert dvc.api.artifacts_show("m2det", version="v1.2.0", repo=str(clone.folder))["path"] == model
    [known] = Repo(str(clone.folder)).artifacts.read()["dvc.yaml"].values()
    assert (known.path, known.type) == (model, "model") and "object-detection" in known.labels and known.desc


def page_without_speed(clone: Clone) -> str:
    before, after = (clone.folder / "results/report.html").read_text().split("<h2>Speed</h2>")
    assert "images per second" in after.split("</section>")[0]
    return before + after.split("</section>", 1)[1]


def test_two_clones_make_the_same_bytes_with_one_process_and_with_two(clones):
    first, second = map(md5_of_outputs, clones)
    assert {path: first[path] for path in EQUAL} == {path: second[path] for path in EQUAL}
    assert page_without_speed(clones[0]) == page_without_speed(clones[1])
    for clone in clones:
        clone.edit({"  processes: ": "  processes: 2", "  batch_size: 4": "  batch_size: 8"})
    both(clones, "dvc", "repro", "--single-item", "train")
    for clone in clones:
        made = json.loads((clone.folder / "models/m2det.json").read_text())
        assert (made["processes"], made["params"]["train"]["batch_size"]) == (2, 8)
    paired, other = map(md5_of_outputs, clones)
    assert paired["models/m2det.safetensors"] == other["models/m2det.safetensors"]
    assert paired["models/m2det.safetensors"] != first["models/m2det.safetensors"]
