"""Pages of launched models."""

from django.urls import path

from portal.serving import views

urlpatterns = [
    path("chat/<int:pk>/", views.chat, name="chat"),
    path("playground/", views.playground, name="playground"),
]
