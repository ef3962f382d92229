"""An asynchronous service that waits for workers without stopping: ``umbel -A shop:queue worker``."""

from typing import Annotated

from fastapi import FastAPI, Query

from umbel import Umbel

queue = Umbel("shop")
app = FastAPI()


@queue.task
def price(pieces: int) -> int:
    """Work out a price."""
    return 5 * pieces


@queue.task
async def total(prices: list[int]) -> int:
    """Add up."""
    return sum(prices)


@app.get("/price/{pieces}")
async def answer(pieces: int) -> dict[str, int]:
    """Answer with what a worker has worked out."""
    result = await price.adelay(pieces)
    return {"price": await result.aget(timeout=30)}


@app.post("/total")
async def ask(prices: Annotated[list[int], Query()]) -> dict[str, str]:
    """Send a task; the answer is fetched later."""
    return {"id": (await total.adelay(prices)).id}
