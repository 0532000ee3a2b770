"""A plugin file for the tests."""

import pytest
from plugin_files import METHOD


@pytest.fixture
def write(tmp_path):
    """write(source, name) -> the path of a plugin file."""

    def write(source=METHOD, name="my_methods.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write


@pytest.fixture
def good():
    return METHOD
