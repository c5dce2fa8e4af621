"""Settings of Celery for Flower, whose page of the broker shows these queues.

`CELERY_BROKER_URL="$CV_ASSETS_BROKER" celery --config=resources.workers.flower_settings flower --address=127.0.0.1`
"""

from kombu import Queue

from resources.workers.run_queue import QUEUES, broker_queue_name

task_queues = [Queue(broker_queue_name(queue)) for queue in QUEUES]
task_default_queue = task_queues[0].name
task_create_missing_queues = False
