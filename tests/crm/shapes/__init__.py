"""A second shape of CRM, as a plug-in: its provider, its field map, and (in `answers`) the other side.

PLUGINS=tests.crm.shapes CRM_PROVIDER=shaped CRM_API_KEY_HEADER=X-Api-Key
"""
