"""Text that steers no terminal, whatever names, reasons and outputs hold.

Pure.
"""


def escaped(text: str) -> str:
    """Return a text with what could steer a terminal, or end a line, written out."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
