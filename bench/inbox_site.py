"""The site with one more address: a bare view that checks the same signature and makes one insert."""

import hashlib
import hmac
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sopengine.settings")
application = get_wsgi_application()

from django.conf import settings  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

from sopengine import clock, urls  # noqa: E402
from sopengine.models import Delivery  # noqa: E402


@csrf_exempt
def bare(request: HttpRequest) -> HttpResponse:
    """Check the HMAC of the body, insert one row of the same table, and say so."""
    expected = hmac.new(settings.CRM_HMAC_SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(request.headers.get("X-Signature", ""), expected):
        return HttpResponse(status=401)
    now = clock.now()
    row = Delivery.objects.create(
        source="bare", external_id=expected, body_hash=expected, received_at=now, state="failed"
    )
    return JsonResponse({"status": "accepted", "id": str(row.pk)}, status=202)


urls.urlpatterns.insert(0, path("bare", bare))
