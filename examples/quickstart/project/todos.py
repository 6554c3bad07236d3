"""The list itself: in memory, without HTTP."""

import itertools


class Todos:
    """Todos by number, in the order in which they were added."""

    def __init__(self):
        self._items = {}
        self._numbers = itertools.count(1)

    def add(self, title):
        """Adds one and returns it; a title must not be empty."""
        title = title.strip()
        if not title:
            raise ValueError("a todo needs a title")
        item = {"id": next(self._numbers), "title": title, "done": False}
        self._items[item["id"]] = item
        return item

    def list(self):
        return list(self._items.values())

    def done(self, number):
        """Marks one as done and returns it; KeyError when there is none."""
        item = self._items[number]
        item["done"] = True
        return item
