"""Names of tasks, nodes and objects."""

import json
import os
import sys
import uuid as stdlib_uuid

import pytest

from umbel import _names, states
from umbel._names import (
    anon_nodename,
    default_nodename,
    did_you_mean,
    gethostname,
    host_format,
    import_from_cwd,
    node_format,
    nodename,
    nodesplit,
    qualname,
    symbol_by_name,
    task_name,
    uuid,
    worker_direct_name,
)

HOST = "foo.example.com"


@pytest.mark.row("API-004")
def test_an_id_is_a_random_uuid_as_text():
    ids = {uuid() for _ in range(100)}

    assert len(ids) == 100
    for text in ids:
        parsed = stdlib_uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, stdlib_uuid.RFC_4122)


@pytest.mark.row("API-020", "API-030")
@pytest.mark.parametrize(
    ("module", "main", "name"),
    [
        ("proj.tasks", "proj", "proj.tasks.add"),
        ("__main__", "proj", "proj.add"),
        ("__main__", None, "__main__.add"),
        (None, "proj", "proj.add"),
    ],
)
def test_a_task_is_called_by_its_module_and_the_script_by_the_apps_name(module, main, name):
    assert task_name("add", module, main) == name


@pytest.mark.row("API-571", "API-572", "CLI-120")
def test_a_node_is_a_name_at_a_host():
    assert nodename("w1", "h") == "w1@h"
    assert nodesplit("a@b@c") == ("a", "b@c")
    assert nodesplit("b") == (None, "b")
    assert default_nodename(None) == f"celery@{gethostname()}"
    assert default_nodename("w1") == "celery@w1"
    assert default_nodename("a@") == f"a@{gethostname()}"
    assert default_nodename("@b") == "celery@b"
    assert default_nodename("a@b") == "a@b"
    assert anon_nodename("h") == f"gen{os.getpid()}@h"
    assert anon_nodename("h", "p") == f"p{os.getpid()}@h"


@pytest.mark.row("API-462", "CFG-123")
def test_a_worker_has_a_queue_of_its_own():
    assert worker_direct_name("w1@h") == "w1@h.dq2"


@pytest.mark.row("CLI-121", "CLI-122", "CLI-123", "CLI-124", "CLI-125", "CLI-126", "CLI-127")
@pytest.mark.parametrize(
    ("text", "of_host", "of_node"),
    [
        ("%h", HOST, HOST),
        ("%n", "foo", "w1"),
        ("%d", "example.com", "example.com"),
        ("%i", "0", "0"),
        ("w%I.log", "w.log", "w.log"),
        ("100%%h", "100%h", "100%h"),
        ("%", "%", "%"),
        ("%n@%h", f"foo@{HOST}", f"w1@{HOST}"),
    ],
)
def test_formats_are_expanded(text, of_host, of_node):
    assert host_format(text, HOST) == of_host
    assert node_format(text, f"w1@{HOST}") == of_node


@pytest.mark.row("CLI-124", "CLI-125", "CLI-126", "CLI-128")
def test_children_have_an_index_and_callers_may_add_letters():
    assert node_format("%p-%i%I", "w1@h", process_index=3) == "w1@h-3-3"
    assert host_format("%n", HOST, "w1") == "w1"
    assert node_format("%N.pid", "w1@h", N="one") == "one.pid"
    assert host_format("%h") == gethostname()


@pytest.mark.row("CLI-127")
def test_an_unknown_format_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"'%x' in 'a%x'; known are %h %n"):
        host_format("a%x", HOST)


def test_a_suggestion_ends_the_sentence():
    assert did_you_mean("proj.ad", ["proj.add", "proj.mul"]) == "; did you mean 'proj.add'?"
    assert did_you_mean("zzz", ["proj.add"]) == "."


@pytest.mark.row("API-576")
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("json:dumps", json.dumps),
        ("json.dumps", json.dumps),
        ("json.decoder:JSONDecoder.decode", json.JSONDecoder.decode),
        ("json", json),
        ("umbel._names", _names),
        (json.loads, json.loads),
        (None, None),
    ],
)
def test_an_object_is_found_by_its_path(name, found):
    assert symbol_by_name(name) is found


@pytest.mark.row("API-576")
def test_an_alias_stands_for_a_path():
    assert symbol_by_name("quick", {"quick": "json:loads"}) is json.loads


@pytest.mark.row("ALB-06")
def test_celerys_paths_lead_to_umbel():
    assert symbol_by_name("celery.states:state") is states.state
    assert symbol_by_name("celery.states.state") is states.state


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("no_such_module.x", ModuleNotFoundError, "no_such_module"),
        ("no_such_module", ModuleNotFoundError, "no_such_module"),
        ("json:dump_", AttributeError, "did you mean 'dump'"),
        ("json.dump_", AttributeError, "module 'json' has no attribute 'dump_'"),
    ],
)
def test_what_cannot_be_found_is_named(name, error, text):
    with pytest.raises(error, match=text):
        symbol_by_name(name)
    assert symbol_by_name(name, default=3) == 3


@pytest.mark.row("API-576")
def test_modules_of_the_current_directory_can_be_imported(tmp_path, monkeypatch):
    (tmp_path / "lonely_module.py").write_text("answer = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    assert import_from_cwd("lonely_module").answer == 42
    assert str(tmp_path) not in sys.path


@pytest.mark.row("API-576")
def test_an_object_is_called_by_its_class():
    assert qualname(json.JSONDecoder) == "json.decoder.JSONDecoder"
    assert qualname(json.JSONDecoder()) == "json.decoder.JSONDecoder"
