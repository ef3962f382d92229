"""Record the settings of a real Celery: `<python with celery> tests/golden/record_settings.py`.

Writes settings.json beside this file: for each name its type, the repr of its default, and its old name.
"""

import json
from importlib.metadata import version
from pathlib import Path

from celery.app import defaults

settings = [
    f'"{name}": '
    + json.dumps([getattr(option.type, "__name__", option.type), repr(option.default), defaults._TO_OLD_KEY[name]])
    for name, option in sorted(defaults.flatten(defaults.NAMESPACES))
]
text = '{{\n"celery": "{}",\n"settings": {{\n{}\n}}\n}}\n'.format(version("celery"), ",\n".join(settings))
(Path(__file__).parent / "settings.json").write_text(text)
