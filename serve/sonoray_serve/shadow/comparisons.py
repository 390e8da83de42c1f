"""Comparisons with a candidate on their way into the database of feedback."""

import logging
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.records.comparison_table import Comparison, add_comparison, tables
from sonoray.records.database import open_database

if TYPE_CHECKING:
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)


class Comparisons:
    """Keeps comparisons; opened with the first one."""

    def __init__(self, place: str) -> None:
        """Args: `place` is a path or a URL; empty where nothing is kept but the counts."""
        self._place = place
        self._engine: Engine | None = None

    def add(self, compared: Comparison) -> None:
        """Keep one; where that fails, say so and go on: it is nobody's answer."""
        from sqlalchemy.exc import SQLAlchemyError

        if not self._place:
            return
        try:
            if self._engine is None:
                self._engine = open_database(self._place, tables()[0])
            add_comparison(self._engine, compared)
        except (DataError, SQLAlchemyError) as error:
            logger.error("a comparison could not be kept: %s", type(error).__name__)
