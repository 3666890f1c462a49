"""benchmarks/scaling.py: its formulas against cases computed by hand, and the tables that docs/scale.md shows."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where `python benchmarks/scaling.py` finds its modules

from scaling import INPUTS, inputs_table, network_of, systems, table, training_hours, value
from scaling_check import report
from scaling_model import BUCKET, OTHER_MESSAGES, Link, Network, System, efficiency, image_seconds, predict

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
FREE = Link(float("inf"), 0.0)
INSIDE, BETWEEN = Link(1e9, 0.0), Link(1e8, 0.0)
# 4 devices; an image takes 1.5 s; 8e8 bytes take 1.2 s in a host, and 2 s more between two hosts
SYSTEM = System(1.5, 4, 16, 0.0, 0.0, INSIDE, BETWEEN, last=1e6)
NETWORK = Network(0.0, 8e8)


def test_a_ring_sends_all_bytes_but_one_share_twice() -> None:
    assert Link(10e9, 1e-3).all_reduce(1e9, 4, 3) == pytest.approx(2 * 3 / 4 * 0.1 + 3 * 1e-3)


def test_one_process_exchanges_nothing() -> None:
    assert Link(10e9, 1e-3).all_reduce(1e9, 1, 3) == 0
    step = predict(SYSTEM, NETWORK, 2, hosts=1, devices=1)
    assert (step.all_reduce, step.exposed, step.seconds) == (0, 0, 3)


def test_hosts_add_up_what_each_device_holds_a_part_of() -> None:
    assert predict(SYSTEM, NETWORK, 2, hosts=1).all_reduce == pytest.approx(1.2)
    assert predict(SYSTEM, NETWORK, 2, hosts=2).all_reduce == pytest.approx(1.2 + 2)


def test_the_backward_pass_hides_all_but_the_last_bucket_or_what_is_longer() -> None:
    last = 2 * 3 / 4 * 1e6 / 1e9
    assert predict(SYSTEM, NETWORK, 2, hosts=1).exposed == pytest.approx(last)  # 1.2 s within 2 s of backward
    assert predict(SYSTEM, NETWORK, 2, hosts=2).exposed == pytest.approx(3.2 - 2)
    assert predict(replace(SYSTEM, overlap=0.0), NETWORK, 2, hosts=2).exposed == pytest.approx(3.2)


def test_each_bucket_and_both_other_messages_have_their_latency() -> None:
    system = replace(SYSTEM, inside=Link(float("inf"), 0.1), between=FREE, overlap=0.0)
    step = predict(system, Network(0.0, 2 * BUCKET + 1), 2, hosts=1)
    assert step.exposed == pytest.approx(0.1 * (3 + OTHER_MESSAGES))


def test_few_loader_cores_bound_the_step() -> None:
    system = replace(SYSTEM, load_s=2.0, loaders=2, inside=FREE)
    step = predict(system, NETWORK, 2, hosts=1)
    assert step.seconds == pytest.approx(2 * 4 * 2.0 / 2)
    assert (step.bound, step.rate) == ("loader", pytest.approx(1.0))
    assert predict(replace(system, loaders=8), NETWORK, 2, hosts=1).bound == "compute"
    assert predict(replace(system, loaders=8, between=Link(1e6, 0.0)), NETWORK, 2, hosts=2).bound == "gradients"


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    image_s=st.floats(1e-3, 10),
    load_s=st.floats(0, 1),
    inside=st.floats(1e6, 1e12),
    between=st.floats(1e6, 1e12),
    overlap=st.floats(0, 1),
    hosts=st.integers(1, 64),
)
def test_no_device_is_faster_with_others_and_no_slower_with_better_parts(
    image_s: float, load_s: float, inside: float, between: float, overlap: float, hosts: int
) -> None:
    links = Link(inside, 1e-5), Link(between, 1e-4)
    system = System(image_s, 4, 16, load_s, 0.0, *links, last=1e6, overlap=overlap)
    step = predict(system, NETWORK, 2, hosts)
    assert efficiency(system, NETWORK, 2, hosts) <= 1 + 1e-9
    assert efficiency(replace(system, inside=FREE, between=FREE), NETWORK, 2, hosts) == pytest.approx(1)
    assert predict(system, NETWORK, 2, hosts + 1).seconds >= step.seconds
    better = ({"image_s": image_s / 2}, {"load_s": load_s / 2}, {"between": Link(2 * between, 1e-4)}, {"overlap": 1.0})
    assert all(predict(replace(system, **part), NETWORK, 2, hosts).seconds <= step.seconds for part in better)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("step", [1.3, 2.0, 9.0])
def test_a_measured_step_gives_the_time_of_an_image_that_the_model_needs_for_it(step: float, overlap: float) -> None:
    system = replace(SYSTEM, overlap=overlap)
    system = replace(system, image_s=image_seconds(step, system, NETWORK, 2))
    assert system.image_s > 0
    assert predict(system, NETWORK, 2, hosts=1).seconds == pytest.approx(step)


def test_the_model_of_a_910_gives_the_published_speed() -> None:
    network = network_of("m2det512-vgg16")
    name, system = next(systems(network, network))
    assert name.startswith("910,")
    assert predict(system, network, 16, hosts=1).rate == pytest.approx(value("910, img/s of 8"))


def test_the_model_of_a_910_takes_the_published_86_hours() -> None:
    network = network_of("m2det512-vgg16")
    _, system = next(systems(network, network))
    assert training_hours(system, network, 16, hosts=1) == pytest.approx(86, rel=0.01)


def test_evaluations_share_the_cores_of_all_hosts() -> None:
    system = replace(SYSTEM, image_s=1e-9, loaders=10, inside=FREE, between=FREE)
    slow = replace(system, detect_s=7.2)
    for hosts in (1, 2):
        hours = training_hours(slow, NETWORK, 2, hosts) - training_hours(system, NETWORK, 2, hosts)
        assert hours == pytest.approx(160 / 10 * 5_000 * 7.2 / 3600 / 10 / hosts)


def test_the_page_has_what_the_script_prints() -> None:
    page = PAGE.read_text()
    assert table("m2det512-vgg16", 16) in page, "write what python benchmarks/scaling.py prints into docs/scale.md"
    assert inputs_table() in page
    assert {known.kind for known in INPUTS.values()} == {"measured", "published", "assumed"}


def test_the_check_compares_with_the_link_and_the_step_that_were_measured_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The link takes 0.01 s for a message and 0.1 s for a bucket, the network 3 of them and 2 messages."""
    rounds = {"few": [0.01] * 3, "many": [0.11] * 3, "a, alone": [1.0, 2.0, 3.0], "a, both": [1.35, 2.35, 6.7]}
    report(rounds, {"a": Network(0.0, 3.0 * BUCKET)})
    printed = capsys.readouterr().out
    assert "10.00 ms and 0.26 GB/s" in printed
    assert "| a | 78.6 | 2.0000 | 2.3500 | 2.3500 | 1.00 |" in printed
