"""docs/reference/cli.md says what the parser says."""

from tests.support.command_line import PAGE, page


def test_the_page_of_the_command_line_is_what_the_parser_says() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.support.command_line"
