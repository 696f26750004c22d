"""All addresses; /healthz is answered by `sopengine.health.Alive` before they are looked at."""

from django.contrib import admin
from django.urls import path

from credentials import login
from sopengine import health

urlpatterns = [
    path("admin/", admin.site.urls),
    path("oauth/callback", login.callback, name="oauth_callback"),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
