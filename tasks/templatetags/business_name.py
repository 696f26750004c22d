"""What the firm is called, for pages that customers see."""

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def business_name() -> str:
    """Return settings.BUSINESS_NAME."""
    return str(settings.BUSINESS_NAME)
