"""Several jobs at a time through dask.distributed: a cluster on this machine, or a running scheduler."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster
from distributed.utils import silence_logging_cmgr

from flatlab.runner.execution import cores
from flatlab.runner.notebooks import StudyError
from flatlab.runner.place import Place, StopFile

CONNECT_TIMEOUT = 15  # seconds to reach a scheduler, and to see its first worker


@contextmanager
def connect(address: str | None, *, workers: int, resources: Mapping[str, float], folder: Path) -> Iterator[Place]:
    """A place for jobs: `workers` processes on this machine, or the scheduler at `address`.

    Raises StudyError if the scheduler cannot be reached, has no worker, or no worker has the `resources`, for which
    dask itself would wait for ever; ChildProcessError if a worker process died while it started.
    """
    stop = StopFile(folder)
    with ExitStack() as stack:
        stack.callback(stop.clear)
        if address is None:
            client = stack.enter_context(_local(workers))
            options = {"threads": max(1, cores() // workers), "stop": stop}
        else:
            client = stack.enter_context(_remote(address))
            options = {"stop": stop}
        _check(client, address, resources)
        executor = client.get_executor(pure=False, retries=0, **({"resources": dict(resources)} if resources else {}))
        yield Place(
            executor,
            lambda: len(_able(client, resources)),
            options,
            stop.set,
            lost=f"the scheduler at {address or 'this machine'} does not answer any more",
            deaths=(KilledWorker,),
        )


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    # A second attempt would follow the first into the same lack of memory; the next batch repeats the job anyway.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), _deaf_to_interrupts() as restore:
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # it serves HTTP anyway: any free port will do
                memory_limit=0,  # the memory is the kernels', which dask does not see
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, OSError) as error:
            raise ChildProcessError(
                f"one of {workers} worker processes did not start (killed, or out of memory?): "
                "run the same command again, or with fewer workers"
            ) from error
        with cluster, Client(cluster) as client:
            restore()
            yield client


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StudyError(f"no dask scheduler answers at {address}: start one with `dask scheduler`") from error
    with silence_logging_cmgr(logging.CRITICAL), client:  # what matters of its loss is said by the batch
        yield client


def _check(client: Client, address: str | None, resources: Mapping[str, float]) -> None:
    where = address or "the local cluster"
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
    except TimeoutError as error:
        raise StudyError(
            f"{where} has no workers: start some with `dask worker {address} --nworkers 2 --nthreads 1`"
        ) from error
    if not _able(client, resources):
        wanted = " ".join(f"{name}={amount:g}" for name, amount in resources.items())
        offered = sorted({name for worker in _workers(client) for name in worker.get("resources", {})})
        raise StudyError(
            f"no worker of {where} offers {wanted} (offered: {', '.join(offered) or 'nothing'}): "
            f'start them with `dask worker {address} --nthreads 1 --resources "{wanted}"`'
        )


def _workers(client: Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info()["workers"].values())


def _able(client: Client, resources: Mapping[str, float]) -> list[dict[str, Any]]:
    """Workers that have each of the resources in the amount that one job takes."""
    return [
        worker
        for worker in _workers(client)
        if all(worker.get("resources", {}).get(name, 0) >= amount for name, amount in resources.items())
    ]


@contextmanager
def _deaf_to_interrupts() -> Iterator[Any]:
    """Processes started inside ignore Ctrl-C, which a terminal sends to all: the parent tells them when to stop."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield lambda: None
        return
    before = [signal.signal(signal.SIGINT, signal.SIG_IGN)]

    def restore() -> None:
        if before:  # once only: by the second call, others may have changed the handler
            signal.signal(signal.SIGINT, before.pop())

    try:
        yield restore
    finally:
        restore()
