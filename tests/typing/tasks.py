"""What type checkers must say of tasks: read by test_typing.py, never run.

A line marked ``# wrong`` must be refused, all others accepted, by mypy and by pyright.
"""

from __future__ import annotations

from typing import assert_type

from umbel import Celery, Task, Umbel, shared_task
from umbel.result import AsyncResult, EagerResult

app = Umbel("typed", broker="memory://")
assert_type(Celery("same"), Umbel)


@app.task
def add(x: int, y: int) -> int:
    return x + y


assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(1, y=2).get(), int)
assert_type(add.delay(1, 2).get(timeout=1.0), int)
assert_type(add.apply_async((1, 2), countdown=3), AsyncResult[int])
assert_type(add.apply((1, 2)), EagerResult[int])
assert_type(add.apply((1, 2)).get(), int)
assert_type(add(1, 2), int)
assert_type(add.name, str)

add.delay("x")  # wrong
add.delay(1)  # wrong
add.delay(1, 2, 3)  # wrong
add.delay(1, "2")  # wrong
add.delay(1, z=2)  # wrong
add("1", 2)  # wrong
add.delay(1, 2).get() + "x"  # wrong


@app.task(name="named", max_retries=5)
def greet(name: str, *, loud: bool = False) -> str:
    return name.upper() if loud else name


assert_type(greet.delay("you", loud=True), AsyncResult[str])
greet.delay("you", True)  # wrong
greet.delay(loud=True)  # wrong


@app.task(bind=True, max_retries=3)
def fetch(self: Task[[str], bytes], url: str) -> bytes:
    try:
        return url.encode()
    except OSError as exc:
        raise self.retry(exc=exc, countdown=5) from exc


assert_type(fetch.delay("https://example.com"), AsyncResult[bytes])
assert_type(fetch("https://example.com"), bytes)
fetch.delay()  # wrong
fetch.delay(fetch, "https://example.com")  # wrong


@app.task
async def download(url: str, tries: int = 1) -> list[str]:
    return [url] * tries


assert_type(download.delay("u"), AsyncResult[list[str]])
assert_type(download.delay("u", tries=2).get(), list[str])
download.delay(1)  # wrong


async def use() -> None:
    assert_type(await download("u"), list[str])
    assert_type(await add.delay(1, 2).aget(), int)
    assert_type(await add.delay(1, 2), int)


@app.task(bind=True)
async def bound_download(self: Task[[str], int], url: str) -> int:
    return len(url)


assert_type(bound_download.delay("u").get(), int)
bound_download.delay()  # wrong


@shared_task
def double(x: float) -> float:
    return 2 * x


assert_type(double.delay(1.5).get(), float)
double.delay("x")  # wrong


@shared_task(bind=True, ignore_result=True)
def shared_and_bound(self: Task[[int], None], x: int) -> None:
    self.update_state(state="PROGRESS", meta={"done": x})


assert_type(shared_and_bound.delay(1), AsyncResult[None])
shared_and_bound.delay("x")  # wrong


class Sum(Task[[int, int], int]):
    name = "sum"

    def run(self, x: int, y: int) -> int:
        return x + y


total: Sum = app.register_task(Sum())
assert_type(total.delay(1, 2).get(), int)
total.delay("x", 2)  # wrong
