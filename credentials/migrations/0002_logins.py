from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """OAuth logins: a refresh token beside the secret, the lease of who renews it, and refusals.

    Every column is empty at first or has a default, so that processes of the version before go on.
    """

    dependencies = [("credentials", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="LoginAttempt",
            fields=[
                ("state", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("browser", models.CharField(max_length=64)),
                ("service", models.SlugField(max_length=60)),
                ("until", models.DateTimeField()),
            ],
        ),
        migrations.AddField("credential", "refused_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField(
            "credential",
            "refused_code",
            models.CharField(blank=True, db_default="", default="", editable=False, max_length=40),
        ),
        migrations.AddField("credential", "refresh_token", models.TextField(editable=False, null=True)),
        migrations.AddField("credential", "renew_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField(
            "credential", "renewals", models.PositiveIntegerField(db_default=0, default=0, editable=False)
        ),
        migrations.AddField("credential", "refreshed_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField("credential", "refresh_until", models.DateTimeField(editable=False, null=True)),
        migrations.AddConstraint(
            "credential",
            models.CheckConstraint(
                condition=Q(refresh_token__isnull=True) | Q(refresh_token__startswith="v1|"),
                name="credential_refresh_is_sealed",
            ),
        ),
    ]
