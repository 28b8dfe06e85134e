"""Run the examples of all public names as a script of a user: `python -m tests.support.doctests`.

Prints the names. What an example defines is there for those after it.
"""

import doctest
import inspect
import sys
from collections.abc import Iterator

import collector as package


def examples() -> Iterator[doctest.DocTest]:
    """The examples in the docstring of each public name, and of its methods."""
    parse = doctest.DocTestParser().get_doctest
    for name in package.__all__:
        found = getattr(package, name)
        told = {name: found}
        if inspect.isclass(found):
            told |= {f"{name}.{key}": value for key, value in vars(found).items()}
        for path, value in told.items():
            text = inspect.getdoc(value) if path == name or inspect.isroutine(value) else None
            if text and ">>> " in text:
                yield parse(text, {}, path, None, 0)


def main() -> int:
    names = vars(sys.modules["__main__"])
    names["Collector"] = package.Collector
    runner = doctest.DocTestRunner()
    for example in list(examples()):
        example.globs = names  # functions of examples are those of a script, and travel as such
        runner.run(example, clear_globs=False)
        print(example.name)
    return min(1, runner.failures)


if __name__ == "__main__":
    sys.exit(main())
