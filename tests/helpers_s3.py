"""A bucket behind the S3 protocol, on this machine."""

from dataclasses import dataclass
from typing import Any, ClassVar


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
