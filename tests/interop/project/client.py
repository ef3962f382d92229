"""Run pieces of code that a test sends, one JSON line each, with everything of `proj` in reach."""

import json
import sys
import textwrap
import traceback
import warnings

import proj

warnings.simplefilter("ignore")
answers, sys.stdout = sys.stdout, sys.stderr
print(json.dumps("ready"), file=answers, flush=True)
for line in sys.stdin:
    code, values = json.loads(line)
    names = {**vars(proj), **values}
    try:
        exec("def f():\n" + textwrap.indent(code, "    "), names)
        answer = {"ok": names["f"]()}
        text = json.dumps(answer, default=repr)
    except BaseException:  # noqa: BLE001 - the test is told
        text = json.dumps({"error": traceback.format_exc()})
    print(text, file=answers, flush=True)
