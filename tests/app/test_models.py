from typing import Any, Optional

import pytest
from pydantic import BaseModel, ValidationError

from umbel.exceptions import MissingExtra


class Point(BaseModel):
    x: int
    y: int = 0


@pytest.mark.row("API-122", "API-125")
def test_models_travel_as_data(app, work, sent, read):
    seen = []

    @app.task(name="move", pydantic=True)
    def move(point: Point, by: Optional[Point] = None, label: str = "") -> Point:  # noqa: UP045 - both ways to say it
        seen.append((point, by, label))
        return Point(x=point.x + (by.x if by else 1))

    result = move.delay({"x": 1}, by={"x": 2}, label="a")
    move.delay({"x": 1})
    work()

    assert seen == [(Point(x=1), Point(x=2), "a"), (Point(x=1), None, "")]
    assert result.get() == {"x": 3, "y": 0}


@pytest.mark.row("API-126")
def test_callers_may_give_models(app, sent, read):
    move = app.task(name="move", pydantic=True)(_move)

    move.delay(Point(x=1), by=Point(x=2))

    ((message, _),) = sent()
    assert read(message)[:2] == ([{"x": 1, "y": 0}], {"by": {"x": 2, "y": 0}})


def _move(point: Point, by: Point | None = None) -> Any:
    return point, by


@pytest.mark.row("API-122")
def test_data_that_is_no_model_fails_the_task(app, work):
    move = app.task(name="move", pydantic=True)(_move)

    result = move.delay({"x": "no number"})
    work()

    assert result.state == "FAILURE"
    with pytest.raises(ValidationError):
        move({"x": "no number"})


@pytest.mark.row("API-123", "API-124", "API-125")
def test_validation_and_dumping_can_be_tuned(app):
    class Told(BaseModel):
        x: int

        def model_post_init(self, context: Any) -> None:
            told.append((context["celery_task_name"], context["celery_app"], context["extra"]))

    told = []

    def strict(value: Told) -> Told:
        return value

    strict.__annotations__ = {"value": Told, "return": Told}
    options = {"pydantic_strict": True, "pydantic_context": {"extra": 7}, "pydantic_dump_kwargs": {"exclude": {"x"}}}
    task = app.task(name="strict", pydantic=True, **options)(strict)

    with pytest.raises(ValidationError):
        task({"x": "1"})
    assert task({"x": 1}) == {}
    assert told == [("strict", app, 7)]


@pytest.mark.row("API-122")
def test_async_and_bound_tasks_take_models_too(app, work):
    @app.task(name="amove", pydantic=True, bind=True)
    async def move(self, point: Point) -> Point:
        return Point(x=point.x, y=self.request.retries)

    result = move.delay(Point(x=5))
    work()

    assert result.get() == {"x": 5, "y": 0}


@pytest.mark.row("API-122")
def test_without_pydantic_there_is_one_clear_line(app, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydantic", None)

    with pytest.raises(MissingExtra, match=r"pip install 'umbel\[pydantic\]'"):
        app.task(name="move", pydantic=True)(_move)()
