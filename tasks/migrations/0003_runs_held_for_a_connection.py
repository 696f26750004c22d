from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tasks", "0002_events_are_append_only")]

    operations = [
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(
                    ("status", "waiting"), ("waiting_for__startswith", "provider:"), ("wake_at__isnull", True)
                ),
                fields=["waiting_for", "created_at"],
                name="task_held",
            ),
        ),
    ]
