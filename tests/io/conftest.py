"""What the tests of files and stores share."""

from collections.abc import Iterator

import pytest
from helpers_s3 import S3, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server
