"""The reference says since which version a name is there, and at a release nobody can forget to."""

import re

import pytest

from collector.settings import VERSION
from tests.support import since
from tests.test_docs import DOCS


def test_the_names_of_this_version_are_known_or_it_is_being_made() -> None:
    assert VERSION in {*since.released(), since.NEXT}
    assert since.NEXT not in since.released()


@pytest.mark.slow
def test_no_name_of_a_release_is_gone_without_a_word() -> None:
    now = since.names_now()
    gone = {name for names in since.released().values() for name in names if name not in now}
    changelog = (DOCS / "changelog.md").read_text("utf-8")
    assert [name for name in gone if name.rpartition(".")[2] not in changelog] == []


def test_what_is_new_is_marked_and_what_is_not_is_not() -> None:
    page = (DOCS / "reference" / "api.md").read_text("utf-8")
    under = dict(re.findall(r"^#{2,3} `([\w.]+).*`\n\n(.*)$", page, re.MULTILINE))
    assert under["Batch"] == f"*New in {since.since('Batch')}.*"
    assert "New in" not in under["Output"]
    assert "### `current_job().fileno()`\n\n*New in 0.2.0.*\n" in page
    assert "`ask`" in page.partition("## `Collector`")[2].partition("**Args.**")[0]
