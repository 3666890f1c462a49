"""`m2det bench memory` finds the largest microbatch that fits, and says so where none does."""

import pytest
from ruamel.yaml import YAML

from m2det.bench import memory
from m2det.bench.memory import Try, find_microbatch, largest_fitting, try_in_child
from m2det.cli.main import main
from m2det.device import available_host_memory
from m2det.errors import InputError
from tests.training import settings


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 16), (2, 2), (2, 16), (2, 100), (1, 37)])
def test_the_search_finds_every_limit_and_tries_few_sizes(least, most):
    for limit in range(most + 3):
        tried = []

        def fits(size, limit=limit, tried=tried):
            tried.append(size)
            return size <= limit

        assert largest_fitting(fits, least, most) == (min(limit, most) if limit >= least else 0)
        assert len(tried) == len(set(tried)) <= 14 and all(least <= size <= most for size in tried)


def written(folder, **changes):
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings(**changes).model_dump(), file)
    return str(folder / "params.yaml")


def test_the_line_for_params_yaml_divides_a_step(tmp_path, monkeypatch, capsys):
    shares = []

    def tried(_, microbatch, classes, share):
        assert classes == 3
        shares.append(share)
        return Try(microbatch * 10**9 if microbatch <= 7 else 0, 7 * 10**9)

    monkeypatch.setattr(memory, "try_in_child", tried)
    file = written(tmp_path, batch_size=24, processes=2, microbatch=12)
    assert main(["bench", "memory", "--params", file, "--classes", "3"]) == 0
    *_, seven, largest, line = capsys.readouterr().out.splitlines()
    assert seven.split() == ["microbatch", "7", "7.00", "GB,", "of", "7.00", "GB", "allowed"]
    assert largest == "the largest is 7; the largest that divides train.batch_size 24 in 2 processes:"
    assert line == f"  microbatch: 6    # in section train of {file}"
    assert set(shares) == {0.45}, "processes share a CPU's memory"
    monkeypatch.setattr(memory, "try_in_child", lambda *_: Try(0, 10**8))
    assert main(["bench", "memory", "--params", file]) == 1
    assert "not even a microbatch of 2 fits; choose a smaller model.name" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_that_needs_more_memory_than_it_is_allowed_is_too_large(tmp_path):
    file = written(tmp_path)
    share = 700e6 / available_host_memory()
    small, large = (try_in_child(file, microbatch, 10, share) for microbatch in (2, 256))
    assert small.peak > 10**8 and large.peak == 0
    assert 5e8 < small.allowed < 9e8
    with pytest.raises(InputError, match="a training step with a microbatch of 1 failed: "):
        try_in_child(file, 1, 10, share)  # batch normalization of one value


def test_a_missing_params_yaml_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml"):
        find_microbatch(str(tmp_path / "none.yaml"), 80, print)
