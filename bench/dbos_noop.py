"""DBOS Transact: a workflow of five steps that do nothing, in one process with eight threads. Prints steps/s."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSConfig

WORKFLOWS = 200


@DBOS.step()
def step(number: int) -> int:
    return number


@DBOS.workflow()
def five_steps(number: int) -> int:
    for part in range(5):
        step(part)
    return number


if __name__ == "__main__":
    DBOS(
        config=DBOSConfig(
            name="bench", system_database_url=sys.argv[1], run_admin_server=False, log_level="ERROR"
        )
    )
    DBOS.launch()
    five_steps(0)
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(five_steps, range(WORKFLOWS)))
    print(WORKFLOWS * 5 / (time.perf_counter() - began))
    DBOS.destroy()
