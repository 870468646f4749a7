"""What steps give passes through Prefect, which looks into it as into any mapping."""

from __future__ import annotations

import importlib
import pkgutil
from typing import get_type_hints

import pytest
from prefect import Task
from pydantic import BaseModel

import tasks

MODULES = [importlib.import_module(f"tasks.{found.name}") for found in pkgutil.iter_modules(tasks.__path__)]
STEPS = {task.name: task for module in MODULES for task in vars(module).values() if isinstance(task, Task)}


def test_the_steps_are_found() -> None:
    assert "take-redis-backup" in STEPS


@pytest.mark.parametrize("name", sorted(STEPS))
def test_no_result_passes_for_a_mapping_by_a_field_named_keys(name: str) -> None:
    given = get_type_hints(STEPS[name].fn)["return"]
    assert issubclass(given, BaseModel)
    assert "keys" not in given.model_fields
