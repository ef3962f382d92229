"""Which app a command is for."""

import sys

import pytest

from umbel import Umbel
from umbel.cli.find_app import find_app
from umbel.cli.session import CannotStart

APP = "from umbel import Umbel, Celery\n{name} = Umbel('{main}', set_as_current=False)\n"


@pytest.fixture
def write(folder):
    def write(path, text=""):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def app_text(main="found", name="app"):
    return APP.format(main=main, name=name)


@pytest.mark.row("CLI-001")
@pytest.mark.parametrize(
    "name", ["shop", "shop:app", "shop.app", "shop.store:app", "shop.store.app", "shop.store", "shop:boxed.inside"]
)
def test_an_app_is_named_by_module_attribute_or_package(folder, write, name):
    write("shop/store.py", app_text())
    write("shop/__init__.py", "from shop.store import app\nclass boxed:\n    inside = app\n")

    assert find_app(name, folder).main == "found"


@pytest.mark.row("CLI-001")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (app_text("a", "app") + app_text("c", "celery"), "a"),
        (app_text("x", "first") + app_text("c", "celery"), "c"),
        (app_text("x", "first") + app_text("y", "second"), "x"),
        ("import os as app\n" + app_text("c", "celery"), "c"),
    ],
)
def test_in_a_module_app_comes_before_celery_before_any_other(folder, write, text, found):
    write("shop.py", text)

    assert find_app("shop", folder).main == found


@pytest.mark.row("CLI-001")
def test_a_package_has_its_app_in_its_module_celery(folder, write):
    write("proj/__init__.py")
    write("proj/celery.py", app_text("project"))

    assert find_app("proj", folder).main == "project"
    assert find_app("proj.celery", folder).main == "project"


@pytest.mark.row("CLI-013", "CLI-020")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shopp", "there is no module 'shopp' in {folder} or on sys.path; did you mean 'shop'?"),
        ("shop:ap", "module 'shop' has no 'ap' (from -A shop:ap); did you mean 'app'?"),
        ("shop:prices", "'shop:prices' is a dict, no app"),
        ("shop.stor", "there is neither a module 'shop.stor' nor 'stor' in 'shop'"),
        ("empty", "module 'empty' makes no app; it needs a line such as: app = Umbel('empty')"),
        ("lacking", "module 'lacking' cannot be imported: ModuleNotFoundError: No module named 'no_such' (at {folder}"),
        ("wrong", "module 'wrong' cannot be imported: ZeroDivisionError: division by zero (at {folder}/deep.py:1)"),
        ("half", "module 'half' cannot be imported: SyntaxError: '(' was never closed (at {folder}/half.py:1)"),
        ("..", "'..' names no module"),
        ("shop.py", "'shop.py' names no module; -A takes a module, not a file: umbel -A shop"),
    ],
)  # fmt: skip
def test_what_cannot_be_found_is_said_in_one_sentence(folder, write, name, said):
    write("shop.py", app_text() + "prices = {}\n")
    write("empty.py")
    write("lacking.py", "\nimport no_such\n")
    write("deep.py", "1 / 0\n")
    write("wrong.py", "import deep\n")
    write("half.py", "app = (\n")

    with pytest.raises(CannotStart) as told:
        find_app(name, folder)

    assert told.value.message.startswith(said.format(folder=folder))
    assert told.value.exit_code == 2


def test_an_app_of_the_installed_celery_is_not_mistaken_for_ours(folder, write):
    write("foreign.py", "class Celery: ...\nCelery.__module__ = 'celery.app.base'\napp = Celery()\n")

    for name in ("foreign", "foreign:app"):
        with pytest.raises(CannotStart, match="from umbel import Celery"):
            find_app(name, folder)


def test_without_a_name_pyproject_says_which_app(folder, write):
    write("pyproject.toml", '[tool.umbel]\napp = "shop:app"\n')
    write("shop.py", app_text())
    write("other.py", app_text("other"))
    write("inner/deeper/note.txt")

    assert find_app(None, folder).main == "found"
    assert find_app(None, folder / "inner" / "deeper").main == "found"


@pytest.mark.parametrize(
    ("text", "said"), [("[tool.umbel]\napp = 3\n", "it must be text"), ("[tool.umbel\n", "cannot be read")]
)
def test_a_pyproject_that_is_wrong_is_named(folder, write, text, said):
    write("pyproject.toml", text)

    with pytest.raises(CannotStart, match=said) as told:
        find_app(None, folder)

    assert str(folder / "pyproject.toml") in told.value.message


@pytest.mark.parametrize(
    "line",
    [
        "app = Umbel('found')",
        "celery: umbel.Celery = umbel.Celery('found', broker='memory://')",
        "queue=Celery(\n    'found')",
    ],
)
def test_without_both_it_is_the_only_module_here_that_makes_an_app(folder, write, line):
    write("shop.py", f"import umbel\nfrom umbel import Celery, Umbel\n{line}\n")
    write("dangerous.py", "raise SystemExit('imported')\n")
    write("test_shop.py", app_text("test"))
    write("notes.py", "# app = Umbel('comment')\ndef make():\n    app = Umbel('local')\n")

    assert find_app(None, folder).main == "found"


def test_it_may_lie_in_a_package(folder, write):
    write("proj/__init__.py")
    write("proj/queue.py", app_text())

    assert find_app(None, folder).main == "found"


def test_several_are_named_and_none_is_chosen(folder, write):
    write("shop.py", app_text())
    write("bank.py", app_text())

    with pytest.raises(CannotStart, match=r"several modules here make an app: bank, shop\. Choose one: umbel -A bank"):
        find_app(None, folder)


def test_none_is_said_with_what_to_do(folder):
    with pytest.raises(CannotStart, match="umbel -A module"):
        find_app(None, folder)

    assert isinstance(find_app(None, folder, may_be_default=True), Umbel)


@pytest.mark.row("CLI-001")
def test_the_folder_stays_importable(folder, write):
    write("shop.py", app_text())

    find_app("shop", folder)

    assert str(folder) in sys.path
