"""Two views: one that sends when the transaction is committed, one that awaits a result."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse

from shop.models import Order
from shop.tasks import confirm
from shop.tasks import price as price_task


@transaction.atomic
def buy(request: HttpRequest, what: str) -> JsonResponse:
    """Keep an order, and have it confirmed; if anything goes wrong here, neither happens."""
    order = Order.objects.create(what=what)
    confirm.delay_on_commit(order.pk)
    if what == "nothing":
        raise ValueError("nothing cannot be bought")
    return JsonResponse({"order": order.pk})


async def price(request: HttpRequest, pieces: int) -> JsonResponse:
    """Answer with what a worker has worked out; other requests are served meanwhile."""
    result = await price_task.adelay(pieces)
    return JsonResponse({"price": await result.aget(timeout=30)})
