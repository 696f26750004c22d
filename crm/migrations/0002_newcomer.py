from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('crm', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Newcomer',
            fields=[
                ('person', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('mark', models.CharField(blank=True, default='', max_length=32)),
                ('until', models.DateTimeField(db_index=True)),
                ('entered_by', models.CharField(blank=True, default='', max_length=32)),
            ],
            options={
                'default_permissions': (),
            },
        ),
    ]
