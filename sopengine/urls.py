"""All addresses; /healthz is answered by `sopengine.health.Alive` before they are looked at."""

from django.contrib import admin
from django.urls import path, re_path

from credentials import login
from sopengine import health
from tasks import answer_views, api, deliveries, slack_in, unsubscribe

urlpatterns = [
    path("admin/", admin.site.urls),
    path("oauth/callback", login.callback, name="oauth_callback"),
    path("hooks/slack", slack_in.receive, name="slack"),
    path("hooks/<str:source>", deliveries.hook, name="hook"),
    path("unsubscribe/<str:token>", unsubscribe.page, name="unsubscribe"),
    path("approvals/<str:token>", answer_views.answer_page, name="approval_page"),
    path("approvals/<str:token>/preview", answer_views.letter_preview, name="approval_preview"),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("api/v1/", api.urls),
    re_path(r"^api/v1(?:/.*)?$", api.nothing_here),
]
