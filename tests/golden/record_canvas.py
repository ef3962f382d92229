"""Record what Celery makes of some work-flows: ``python record_canvas.py > canvas.json`` beside a Celery 5.7.

The test of the same name in tests/canvas evaluates the same expressions with umbel and compares.
"""

import json
import re
import sys

JOINS = """
t|u, t|(u|t), t|g, t|g1, t|g0, (t|u)|g0, g|t, g|g, g|(t|u), (g|t)|u, g|t|u, t|g|u, t|g|u|t, t|g|g, t|g|g|t, ch|t,
ch|g, ch|g1, ch|ch, ch|(t|u), t|ch, t|ch|u, t|ch|g, t|ch|g|u, (t|u)|(t|g), (t|g)|(t|u), g|ch, t|g|ch, t|g1|u, chain(),
chain(t), chain([t]), chain(t, u), chain([t, u]), chain(g, t), chain(g), chain([g]), chain(t, chain(u, t)),
chain(chain(t, u), t), group(g), group([g]), group(t, g), group(t|u), group(t), chord(g, t), chord(u, t), chain()|t,
chain()|g, t|chain(), chain(t)|u, chain(t for _ in range(2)), chain(iter([t, u])), g|t|g|t, ch|ch|t, g|g|t, g|g|g
"""

PLANS = """
t|u, t|u|t, g, group(t, g), group(t|u, v), t|g, ch, chord([t, u], b), g|b|u, t|g|b, t|g|b|u, g|g, t|g|g, t|g|g|b,
ch|g, chord([t|u, v], b), chord([g, t], b), chord([chord([t], b), u], b), group(t|g, u), chord([t|g, u], b), chain(g),
chord([], b), chord(t, b)|u, group(t, u)|group(v, t)|b, t|u|g|b|v, chain(t, chain(u, v), g, b), chord([t, u|g], b|v),
group(group(t, u), v), group(ch, t), chord([g, g], b), t|chord([t, u], b)|v, chord([t], ch), ch|ch, ch|t|ch, g|ch,
group(t)|b, si|t, t|si|u, group(si, t)|b, chord([t], b)|u|v, chord([t|u, v|b], b),
t|chord([u|v, t], b), chord([t], b|u|v),
chord([t, si], si), si|g|b, t|ch|u, chord([t], b).on_error(v), chord([t, u], b|v).on_error(u), (t|u|v).on_error(b),
(t|g|b).on_error(v), t.on_error(v)|u, chord([t.on_error(v), u], b), g|b.on_error(v),
(t|u).set(link=[v]), t|u.set(link=[v]),
chord([t, u], b.set(link=[v])), group(t|u, v|b), group(t|u|v, t), chord(g, b), chord([t|u|v], b), t|(u|g|b),
chord([ch|t, u], b),
(g|b)|(u|v)
"""


def names(make, group, chord):
    """Return what the expressions are made of; *make* gives the signature of a task by name, or an immutable one."""
    t, u, v, b = (make(name) for name in ("p.t", "p.u", "p.v", "p.b"))
    groups = {"g": group(make("p.g"), make("p.h")), "g1": group(make("p.i")), "g0": group()}
    chords = {"ch": chord([make("p.c")], make("p.d"))}
    return {"t": t, "u": u, "v": v, "b": b, "si": make("p.si", immutable=True), **groups, **chords}


def expressions(table):
    """Return the expressions of a table: they are separated by a comma outside of brackets."""
    depth, found = 0, [""]
    for character in table.replace("\n", " "):
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [each.strip() for each in found]


def shape(signature):
    """Return the structure of a signature as text."""
    kind, kwargs = signature["subtask_type"], signature["kwargs"]
    if kind in {"chain", "group"}:
        return f"{kind}({', '.join(map(shape, kwargs['tasks']))})"
    if kind == "chord":
        header = kwargs["header"]
        members = header["kwargs"]["tasks"] if isinstance(header, dict) else header
        return f"chord([{', '.join(map(shape, members))}], {shape(kwargs['body'])})"
    return signature["task"].removeprefix("p.")


def plan(messages, result):
    """Return messages and the result tuple with ids replaced by their order, and without what carries no meaning.

    Celery writes the header's group id into the end of the body, whatever that is; it means nothing there.
    """
    bare = [_bare(each, each.get("group")) | {"group": each.get("group")} for each in messages]
    text = json.dumps([bare, result], default=lambda value: [*value])
    known = {}
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", lambda found: known.setdefault(found[0], f"id{len(known)}"), text)
    return json.loads(text)


def message(task, args, kwargs, embed, **identity):
    """Return the facts of one message."""
    return {
        "task": task,
        "args": args,
        "kwargs": kwargs,
        **{key: value for key, value in sorted(embed.items()) if value},
        **{key: value for key, value in sorted(identity.items()) if value is not None},
    }


def _bare(value, group):
    if isinstance(value, dict):
        return {
            key: _bare(each, group)
            for key, each in sorted(value.items())
            if key not in {"reply_to", "root_id", "parent_id", "add_to_parent"}
            and (key, each) not in [("kwargs", {}), ("chord", None), ("group_id", group)]
        }
    return [_bare(each, group) for each in value] if isinstance(value, (list, tuple)) else value


def main():
    """Print the facts."""
    import celery
    from celery import Celery, chain, chord, group, signature
    from celery.signals import before_task_publish

    app = Celery("p", broker="memory://", backend="cache+memory://")
    sent = []

    @before_task_publish.connect(weak=False)
    def remember(sender, headers, body, **_):
        identity = {key: headers[key] for key in ("id", "group", "group_index")}
        sent.append(message(sender, body[0], body[1], body[2], **identity))

    scope = {"chain": chain, "group": group, "chord": chord}

    def fresh():
        return {**scope, **names(lambda name, **k: signature(name, app=app, **k), group, chord)}

    joins = {}
    for each in expressions(JOINS):
        made = eval(each, fresh())
        joins[each] = [shape(made), re.sub(r"@0x\w+", "", repr(made))]
    plans = {}
    for each in expressions(PLANS):
        sent.clear()
        result = eval(each, fresh()).apply_async()
        plans[each] = plan(sent, result.as_tuple())
    json.dump({"celery": celery.__version__, "joins": joins, "plans": plans}, sys.stdout, indent=0, sort_keys=True)


if __name__ == "__main__":
    main()
