"""Tasks that run inside Flask's application context: ``umbel -A shop worker``."""

from typing import Any

from flask import Flask, current_app

from umbel import Task, Umbel, shared_task


def queue_of(flask: Flask) -> Umbel:
    """Return the umbel app of a Flask app, whose tasks find ``flask.current_app`` as views do."""

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with flask.app_context():
                return self.run(*args, **kwargs)

    app = Umbel(flask.name, task_cls=FlaskTask)
    app.config_from_object(flask.config["UMBEL"])
    app.set_default()
    flask.extensions["celery"] = app
    return app


def create_app() -> Flask:
    """Make the Flask app."""
    flask = Flask("shop")
    flask.config.from_mapping(PRICE=5, UMBEL={"task_ignore_result": False})
    flask.config.from_prefixed_env()
    queue_of(flask)

    @flask.post("/price/<int:pieces>")
    def ask(pieces: int) -> dict[str, str]:
        return {"id": price.delay(pieces).id}

    @flask.get("/price/<task_id>")
    def answer(task_id: str) -> dict[str, Any]:
        result = price.AsyncResult(task_id)
        return {"ready": result.ready(), "price": result.result if result.successful() else None}

    return flask


@shared_task
def price(pieces: int) -> int:
    """Work out a price by what the Flask app says."""
    return pieces * current_app.config["PRICE"]


flask_app = create_app()
app = flask_app.extensions["celery"]
