"""A client and a worker in JavaScript, celery-node, and umbel on the other side."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from umbel_interop_fleet import CELERY

from umbel import Umbel

pytestmark = [pytest.mark.process]
PROJECT = Path(__file__).with_name("project")
MODULES = Path(os.environ.get("UMBEL_TEST_NODE_MODULES") or CELERY.parent.parent / "node")


@pytest.fixture(scope="module")
def modules():
    if shutil.which("node") is None:
        pytest.skip("no Node.js on this machine")
    if not (MODULES / "node_modules" / "celery-node").exists():
        pytest.skip("npm could not install celery-node: make .venv-peer/.node")
    return MODULES


def test_celery_node_calls_umbel_and_umbel_calls_celery_node(shared, modules):
    queues = [shared.queue("umbel"), shared.queue("node")]
    script = [shutil.which("node"), str(PROJECT / "client.mjs"), str(modules), shared.broker, shared.results, *queues]
    app = Umbel("caller", broker=shared.broker, backend=shared.results, set_as_current=False)
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            # It talks; the answer is one line of its own.
            answer = json.loads(next(line for line in client.stdout if line.startswith("{")))
            product = app.send_task("node.multiply", (6, 7), queue=queues[1]).get(timeout=40)
        finally:
            client.stdin.close()
            client.wait(20)
    app.close()

    assert answer == {key: {"values": [3, 3, {"a": ["é"]}], "status": "FAILURE"} for key in "12"}
    assert product == 42
