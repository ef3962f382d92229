"""The pictures of the guide to work-flows show what umbel does."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("canvas_pictures", ROOT / "scripts" / "canvas_pictures.py")
canvas_pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(canvas_pictures)


def test_the_pictures_are_up_to_date():
    for name, picture in canvas_pictures.pictures().items():
        assert (canvas_pictures.FOLDER / name).read_text() == picture, "run: python scripts/canvas_pictures.py"
