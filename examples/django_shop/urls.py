"""Where the views are."""

from django.urls import path
from shop import views

urlpatterns = [path("buy/<str:what>", views.buy), path("price/<int:pieces>", views.price)]
