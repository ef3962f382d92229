"""Celery's names for names of nodes."""

import pytest

from umbel.utils import nodenames


@pytest.mark.row("API-571", "API-572", "API-462")
def test_nodes_are_named_and_their_formats_expanded():
    assert nodenames.nodename("w1", "h") == "w1@h"
    assert nodenames.nodesplit("w1@h") == ("w1", "h")
    assert nodenames.host_format("%n", "h.org") == "h"
    assert nodenames.node_format("%p%I", "w1@h") == "w1@h"
    assert nodenames.default_nodename("w1") == "celery@w1"
    assert nodenames.anon_nodename("h").startswith("gen")
    assert nodenames.worker_direct("w1@h") == "w1@h.dq2"
    assert nodenames.gethostname()
