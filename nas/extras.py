"""Packages that only some commands need. backbone-nas is on no package index, so they are installed from the clone."""


def install_command(extra: str) -> str:
    """Return the command that adds the packages of an extra of pyproject.toml."""
    return f"pip install -e '.[{extra}]' in the clone"
