"""The image holds the code alone, and its processes are not root's."""

import re

from tests.conftest import ROOT

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def test_processes_are_of_a_user_by_number_who_is_not_root():
    """By number: Kubernetes, told `runAsNonRoot`, refuses a name."""
    defaults = dict(re.findall(r"^ARG (\w+)=(\d+)$", DOCKERFILE, re.MULTILINE))
    last = re.findall(r"^(USER|RUN|COPY) (.+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert last == ("USER", "${USER_ID}:${GROUP_ID}"), "nothing is done as root behind it"
    assert int(defaults["USER_ID"]) > 0 and int(defaults["GROUP_ID"]) > 0


def test_what_a_job_makes_or_a_user_keeps_is_in_no_image():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (".git", ".dvc/cache", ".dvc/tmp", ".venv", "data/*", "models/*", "results/*"):
        assert name in ignored


def test_each_kind_of_device_has_its_command_with_arguments_that_exist():
    arguments = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    commands = re.findall(r"^#\s+docker build (.+)$", DOCKERFILE, re.MULTILINE)
    assert [re.search(r"-t m2det:(\w+)", command)[1] for command in commands] == ["cuda", "cpu", "npu"]
    for command in commands:
        assert set(re.findall(r"--build-arg (\w+)=", command)) <= arguments
