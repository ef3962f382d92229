"""What is kept in the database."""

from django.db import models


class Order(models.Model):
    """One order of a customer."""

    what = models.CharField(max_length=100)
    confirmed = models.BooleanField(default=False)

    def __str__(self) -> str:
        """Show it to people."""
        return self.what
