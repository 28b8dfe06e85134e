"""The tests; a package, so that a job of a test module is found by name in a worker."""

from tests.support.without_pytest import stand_in

stand_in()
