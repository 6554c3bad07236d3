import unittest

from todos import Todos


class TodosTest(unittest.TestCase):
    def test_what_is_added_is_listed(self):
        todos = Todos()
        todos.add("milk")
        todos.add("bread")
        self.assertEqual([item["title"] for item in todos.list()], ["milk", "bread"])

    def test_a_title_is_needed(self):
        with self.assertRaises(ValueError):
            Todos().add("  ")

    def test_done(self):
        todos = Todos()
        number = todos.add("milk")["id"]
        self.assertTrue(todos.done(number)["done"])
        with self.assertRaises(KeyError):
            todos.done(99)
