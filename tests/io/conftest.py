"""What the tests of files and stores share."""

from collections.abc import Iterator

import pytest
from helpers_s3 import S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3.key,
        aws_secret_access_key=S3.secret,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=S3.bucket)
    yield S3(client, endpoint)
    server.stop()
