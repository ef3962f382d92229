"""What umbel makes of a work-flow is what Celery makes of it, save where that was an accident."""

import json
import runpy
from pathlib import Path

import pytest

from umbel.canvas import chain, chord, group, signature

GOLDEN = Path(__file__).parent.parent / "golden"
RECORDER = runpy.run_path(str(GOLDEN / "record_canvas.py"))
FACTS = json.loads((GOLDEN / "canvas.json").read_text())

BETTER_PLANS = {
    "group(t, g)": "members of nested groups are numbered on, not again from 0",
    "group(group(t, u), v)": "as before",
    "group(t|g, u)": "as before",
    "chord([t|g, u], b)": "as before",
    "chord([t, u|g], b|v)": "as before",
    "chord([g, t], b)": "members of nested groups are sent in the order written, and so come the results",
    "chord([g, g], b)": "as before",
    "chord([ch|t, u], b)": "what waits for a chain is said at its last step, and not again at the chain",
    "chord([t, u], b|v).on_error(u)": "error links of a chain are those of all its steps, also where it is a body",
}

BETTER_RESULTS = {  # the parents of a chord's result lead through all of its body, not straight to the header
    "chord([t], ch)",
    "chord(t, b)|u",
    "chord([t], b)|u|v",
    "chord([t], b|u|v)",
    "ch|ch",
    "ch|t|ch",
    "group(t, u)|group(v, t)|b",
    "g|b|u",
    "g|ch",
}


def evaluate(expression, app):
    made = RECORDER["names"](lambda name, **options: signature(name, app=app, **options), group, chord)
    return eval(expression, {"chain": chain, "group": group, "chord": chord, **made})


@pytest.mark.row("API-237", "API-238", "API-239", "API-240", "API-241", "API-242", "API-243", "API-244", "API-245")
@pytest.mark.row("API-246", "API-247", "API-248", "API-249", "API-250", "API-251", "API-252", "API-254")
@pytest.mark.parametrize("expression", FACTS["joins"])
def test_what_follows_what_is_as_in_celery(app, expression):
    made = evaluate(expression, app)

    assert RECORDER["shape"](made) == FACTS["joins"][expression][0]


@pytest.mark.row("PRT-068", "PRT-069", "PRT-070", "PRT-071", "PRT-072", "PRT-073", "PRT-074", "PRT-034")
@pytest.mark.parametrize("expression", FACTS["plans"])
def test_the_messages_are_those_that_celery_sends(app, expression):
    result = evaluate(expression, app).apply_async()

    messages = [sent_message(sent) for sent in app.sent]
    ours, theirs = RECORDER["plan"](messages, result.as_tuple()), FACTS["plans"][expression]
    if expression in BETTER_PLANS:
        assert ours != theirs
    elif expression in BETTER_RESULTS:
        assert ours[0] == theirs[0]
        assert ours[1] != theirs[1]
    else:
        assert ours == theirs


def sent_message(sent):
    task, args, kwargs, options = (sent.task, sent.args, sent.kwargs, sent.options) if hasattr(sent, "task") else sent
    embed = {ours: options.get(theirs) for ours, theirs in EMBEDDED.items()}
    identity = {"id": options["task_id"], "group": options.get("group_id"), "group_index": options.get("group_index")}
    return RECORDER["message"](task, args, kwargs, embed, **identity)


EMBEDDED = {"callbacks": "link", "errbacks": "link_error", "chain": "chain", "chord": "chord"}
