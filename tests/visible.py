"""Whether text that a command prints can do more than be read."""

import unicodedata


def is_plain(text: str) -> bool:
    """Return whether the text has only lines of visible characters."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\n", ""))
