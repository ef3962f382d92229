"""Offer under Celery's name what moves messages that wait."""

from umbel.app.migrate import (
    State,
    StopFiltering,
    Waiting,
    migrate_task,
    migrate_tasks,
    move,
    move_by_idmap,
    move_by_taskmap,
    move_direct,
    move_direct_by_id,
    move_task_by_id,
    republish,
    start_filter,
    task_id_eq,
    task_id_in,
)

__all__ = [
    "State",
    "StopFiltering",
    "Waiting",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
]
