import pytest

from umbel import group


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda x, y: x + y)


@pytest.mark.row("API-312", "API-465")
def test_a_revoked_task_is_known_to_whoever_claims_it(app, add):
    result = add.delay(1, 2)

    result.revoke()

    assert app.open_broker().revoked() == {result.id}


@pytest.mark.row("API-328", "API-465")
def test_a_group_is_revoked_as_a_whole(app, add):
    result = group(add.s(1, 2), add.s(3, 4))()

    result.revoke()

    assert app.open_broker().revoked() == {child.id for child in result}


@pytest.mark.row("API-482")
def test_waiting_messages_can_be_dropped(app, add, sent):
    for _ in range(3):
        add.delay(1, 2)

    assert app.control.purge() == 3
    assert sent() == []
