"""What is done later."""

from shop.models import Order
from umbel import shared_task


@shared_task
def confirm(order_id: int) -> str:
    """Confirm an order; it is in the database, since the task was sent when that was certain."""
    order = Order.objects.get(pk=order_id)
    order.confirmed = True
    order.save()
    return order.what


@shared_task
def price(pieces: int) -> int:
    """Work out a price."""
    return 5 * pieces
