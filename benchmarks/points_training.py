"""Trainings of the benchmark of points, side by side: one process and one thread each, since operations this small gain little from more threads."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

Made = tuple[dict[str, Tensor], float]  # weights, and how long they took [s]
STARTED: dict[str, Future[Made]] = {}


def start(jobs: Mapping[str, Callable[[], Any]]) -> None:
    """Begin to make models, those that take longest first."""
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
    for name, make in jobs.items():
        STARTED[name] = pool.submit(_alone, make)
    pool.shutdown(wait=False)


def finished(name: str) -> Made:
    """The weights of a model that was begun, when they are there."""
    return STARTED[name].result()


def _alone(make: Callable[[], Any]) -> Made:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    weights = make().state_dict()
    return {name: value.numpy() for name, value in weights.items()}, time.perf_counter() - begin  # arrays: tensors would be handed over as open files
