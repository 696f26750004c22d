"""All addresses; /healthz is answered by `sopengine.health.Alive` before they are looked at."""

from django.contrib import admin
from django.urls import path

from sopengine import health

urlpatterns = [
    path("admin/", admin.site.urls),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
