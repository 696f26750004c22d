"""PostgreSQL itself refuses to change an event; `engine prune` says that it means to delete."""

from django.db import migrations

REFUSE = """
CREATE FUNCTION sopengine_refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND current_setting('sopengine.prune', true) = 'on' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'task events are append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER tasks_taskevent_append_only BEFORE UPDATE OR DELETE ON tasks_taskevent
  FOR EACH ROW EXECUTE FUNCTION sopengine_refuse_event_change();
"""
ALLOW = """
DROP TRIGGER tasks_taskevent_append_only ON tasks_taskevent;
DROP FUNCTION sopengine_refuse_event_change();
"""


def _on_postgres(sql):
    def run(_apps, editor):
        if editor.connection.vendor == "postgresql":
            editor.execute(sql)

    return run


class Migration(migrations.Migration):
    dependencies = [("tasks", "0001_initial")]
    operations = [migrations.RunPython(_on_postgres(REFUSE), _on_postgres(ALLOW))]
