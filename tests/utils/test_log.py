import logging

import pytest

from umbel.utils.log import get_logger, get_task_logger


@pytest.mark.row("API-568")
@pytest.mark.parametrize("name", ["shop.tasks", "celery.task.mine"])
def test_a_tasks_logger_stands_below_that_of_all_tasks(name):
    logger = get_task_logger(name)

    assert logger is logging.getLogger(name)
    assert logger.parent is logging.getLogger("celery.task")
    assert get_task_logger(name) is logger
    assert logger.parent is logging.getLogger("celery.task")


@pytest.mark.row("API-568")
def test_a_child_of_a_tasks_logger_stays_its_child():
    parent = get_task_logger("shop.below")

    assert get_task_logger("shop.below.deeper").parent is parent


@pytest.mark.row("API-568")
@pytest.mark.parametrize("name", ["celery", "celery.task"])
def test_the_parents_are_nobodys_own(name):
    with pytest.raises(RuntimeError, match=r"get_task_logger\(__name__\)"):
        get_task_logger(name)


@pytest.mark.row("API-569")
def test_other_loggers_stand_below_celery():
    assert get_logger("shop.plugin").parent is logging.getLogger("celery")
    assert get_logger("celery") is logging.getLogger("celery")
    assert get_logger("root").parent in {None, logging.getLogger("celery")}
