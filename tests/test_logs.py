"""A logger held at a level for the length of a block."""

from __future__ import annotations

import logging

import pytest

from ultra_dsmoe.logs import at_level


def test_a_logger_is_held_and_let_go(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ultra_dsmoe.test_logs")
    logger.setLevel(logging.INFO)
    with at_level(logger, logging.WARNING):
        logger.info("held back")
        logger.warning("let through")
    logger.info("its own level again")
    assert caplog.messages == ["let through", "its own level again"]


def test_an_error_gives_the_level_back_too() -> None:
    logger = logging.getLogger("ultra_dsmoe.test_logs")
    logger.setLevel(logging.DEBUG)
    with pytest.raises(ZeroDivisionError), at_level(logger, logging.ERROR):
        raise ZeroDivisionError
    assert logger.level == logging.DEBUG
