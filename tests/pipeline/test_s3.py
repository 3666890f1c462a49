"""A remote of S3's protocol: the page's commands against moto's server, over HTTP on this machine."""

import shutil
import subprocess

import pytest

from tests.pipeline.conftest import Clone
from tests.pipeline.test_experiments_page import block, git

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_results_go_to_a_server_of_s3_and_come_back(tmp_path, monkeypatch):
    for package in ("dvc_s3", "moto", "flask_cors"):
        pytest.importorskip(package, reason="needs `pip install -c constraints.txt -e '.[s3,s3-test]'`")
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "NAME", "aws_secret_access_key": "SECRET"}
        s3 = boto3.client("s3", endpoint_url=url, **keys)
        s3.create_bucket(Bucket="bucket")

        project = Clone(tmp_path / "project")
        project.folder.mkdir()
        for command in ("git init -q", "dvc init -q", "seq 100000 > model", "dvc add -q model"):
            project.shell(command)
        commands = block("dvc remote add --default team s3:").replace("https://s3.example.com", url)
        project.shell(f"set -e\n{commands}")
        stored = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
        assert len(stored) == 1 and stored[0].startswith("m2det/files/md5/")
        assert "SECRET" not in (project.folder / ".dvc/config").read_text()
        assert ".dvc/config.local" not in git(project.folder, "status", "--short", "--untracked-files=all")

        shutil.rmtree(project.folder / ".dvc/cache")
        (project.folder / "model").unlink()
        project.run("dvc", "pull")
        made = subprocess.run(["seq", "100000"], capture_output=True, check=True).stdout
        assert (project.folder / "model").read_bytes() == made
    finally:
        server.stop()
