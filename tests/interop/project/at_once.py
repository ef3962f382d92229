"""Run random work-flows at once, in Celery or in umbel, and print what each comes to: `at_once.py SIDE SEED COUNT`."""

import json
import random
import sys

side, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if side == "umbel":
    from umbel import Umbel as App
    from umbel import chain, chord, group
else:
    from celery import Celery as App
    from celery import chain, chord, group

app = App("once", broker="memory://", backend="memory://" if side == "umbel" else "cache+memory://")
app.conf.task_always_eager = True
dice = random.Random(seed)


@app.task(name="t")
def t(*args):
    return "(" + ",".join(map(str, args)) + ")"


def written(depth, numbers):
    """Return a random expression of at most *depth* levels, whose tasks are numbered."""
    kind = dice.choice(["task", "pipe", "chain", "group", "chord"]) if depth else "task"
    if kind == "task":
        return f"t.{dice.choice(['s', 's', 's', 'si'])}({next(numbers)})"
    parts = [written(depth - 1, numbers) for _ in range(dice.randint(2, 3))]
    match kind:
        case "pipe":
            return "(" + " | ".join(parts) + ")"
        case "chord":
            return f"chord([{', '.join(parts[:-1])}], {parts[-1]})"
        case _:
            return f"{kind}({', '.join(parts)})"


for _ in range(count):
    flow = written(3, iter(range(1000)))
    value = eval(flow, {"t": t, "chain": chain, "chord": chord, "group": group}).apply_async().get()
    print(json.dumps([flow, value]))
