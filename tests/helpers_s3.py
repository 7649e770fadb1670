"""A bucket behind the S3 protocol, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest


@dataclass(frozen=True)
class S3:
    """A bucket behind the S3 protocol, on this machine."""

    client: Any
    endpoint: str
    bucket: ClassVar[str] = "bucket"
    key: ClassVar[str] = "key"
    secret: ClassVar[str] = "secret"  # noqa: S105 - any will do

    @property
    def options(self) -> dict[str, Any]:
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def anonymous(self) -> dict[str, Any]:
        return {"anon": True, "endpoint_url": self.endpoint}

    def url(self, name: str) -> str:
        return f"s3://{self.bucket}/{name}"

    def put(self, name: str, content: bytes, acl: str = "private") -> str:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=content, ACL=acl)
        return self.url(name)

    def contents(self, prefix: str) -> dict[str, bytes]:
        """Bytes of every object below, by the rest of its key."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            o["Key"].removeprefix(prefix): self.client.get_object(Bucket=self.bucket, Key=o["Key"])[
                "Body"
            ].read()
            for o in found
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    """Serve an empty bucket; skips the test where what it takes is not installed."""
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
