from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Health',
            fields=[
                ('service', models.SlugField(max_length=60, primary_key=True, serialize=False)),
                ('state', models.CharField(choices=[('answers', 'Answers'), ('silent', 'Does not answer'), ('pausing', 'Asked for a pause'), ('refused', 'Refuses our login'), ('held', 'Held by staff')], default='answers', max_length=10)),
                ('reason', models.CharField(blank=True, default='', max_length=60)),
                ('since', models.DateTimeField(blank=True, null=True)),
                ('until', models.DateTimeField(blank=True, null=True)),
                ('generation', models.PositiveIntegerField(default=0)),
                ('told', models.PositiveIntegerField(default=0)),
                ('tries', models.PositiveIntegerField(default=0)),
                ('failure_1', models.DateTimeField(blank=True, null=True)),
                ('failure_2', models.DateTimeField(blank=True, null=True)),
                ('failure_3', models.DateTimeField(blank=True, null=True)),
                ('failure_4', models.DateTimeField(blank=True, null=True)),
                ('failure_5', models.DateTimeField(blank=True, null=True)),
                ('fingerprint', models.CharField(blank=True, default='', max_length=128)),
                ('probe', models.CharField(blank=True, default='', max_length=32)),
                ('probe_until', models.DateTimeField(blank=True, null=True)),
                ('ramp_at', models.DateTimeField(blank=True, null=True)),
                ('by', models.CharField(blank=True, default='', max_length=150)),
                ('note', models.CharField(blank=True, default='', max_length=200)),
                ('rate_left', models.IntegerField(blank=True, null=True)),
                ('last_ok_at', models.DateTimeField(blank=True, null=True)),
                ('last_failed_at', models.DateTimeField(blank=True, null=True)),
                ('last_code', models.CharField(blank=True, default='', max_length=60)),
            ],
            options={
                'verbose_name': 'CRM connection',
                'verbose_name_plural': 'CRM connection',
                'ordering': ['service'],
                'permissions': [('hold_crm', 'Can hold and release the CRM')],
                'default_permissions': ('view',),
                'constraints': [models.CheckConstraint(condition=models.Q(('state__in', ['answers', 'silent', 'pausing', 'refused', 'held'])), name='health_state_is_known')],
            },
        ),
    ]
