from typing import Annotated

import pytest

from umbel import Secret, Task
from umbel.exceptions import MaxRetriesExceededError


def test_a_secret_argument_is_not_shown_but_arrives(app, sent, read):
    @app.task(shared=False)
    def login(user: str, password: Secret[str], *, token: Annotated[Secret[str], "more"] = "") -> str:
        return user + password

    login.delay("ann", "sesame", token="open")
    login.delay("bob", password="sesame")

    (first, _), (second, _) = sent()
    assert (first.argsrepr, first.kwargsrepr) == ("('ann', ***)", "{'token': ***}")
    assert (second.argsrepr, second.kwargsrepr) == ("('bob',)", "{'password': ***}")
    assert read(first)[:2] == (("ann", "sesame"), {"token": "open"}) or read(first)[0] == ["ann", "sesame"]


def test_annotations_that_are_text_are_understood(app, sent):
    def login(self, password: "Secret[str]"):
        """Hold a secret."""

    app.task(bind=True, shared=False, name="login")(login).delay("sesame")

    assert sent()[0][0].argsrepr == "(***,)"


def test_class_based_tasks_have_secrets_too(app, sent):
    class Login(Task):
        name = "login"

        def run(self, user: str, password: Secret[str]):
            """Hold a secret."""

    app.register_task(Login).delay("ann", "sesame")

    assert sent()[0][0].argsrepr == "('ann', ***)"


def test_a_task_that_gives_up_does_not_tell(app):
    @app.task(bind=True, shared=False, max_retries=0)
    def login(self, password: Secret[str]):
        raise self.retry()

    with pytest.raises(MaxRetriesExceededError, match=r"args:\(\*\*\*,\)"):
        login.apply(("sesame",), throw=True)


def test_what_the_caller_says_of_the_arguments_is_shown(app, sent):
    app.send_task("login", ("sesame",), argsrepr="(hidden)")

    assert sent()[0][0].argsrepr == "(hidden)"
