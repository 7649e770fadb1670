"""Stores behind URLs: whatever the network does is told in one line that names the store."""

import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from chunkglm.errors import StoreError
from chunkglm.io.files import WEB, reaching


class RemoteStore(WrapperStore[Store]):
    """A store behind a URL, whose failures are errors of ours."""

    def __init__(self, store: Store, label: str) -> None:
        super().__init__(store)
        self.label = label

    def _with_store(self, store: Store) -> "RemoteStore":
        return RemoteStore(store, self.label)

    @property
    def supports_listing(self) -> bool:
        """Whether keys can be listed; web servers list nothing that could be relied on."""
        return self._store.supports_listing and not self.label.startswith(WEB)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a key."""
        with reaching(self.label, StoreError):
            return await super().get(key, prototype, byte_range)

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> builtins.list[Buffer | None]:
        """Read parts of keys."""
        with reaching(self.label, StoreError):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        with reaching(self.label, StoreError):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        with reaching(self.label, StoreError):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key if nothing is there."""
        with reaching(self.label, StoreError):
            await super().set_if_not_exists(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete a key."""
        with reaching(self.label, StoreError):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below."""
        with reaching(self.label, StoreError):
            await super().delete_dir(prefix)

    async def clear(self) -> None:
        """Delete every key; zarr's own stops at the first folder that went with its files."""
        with reaching(self.label, StoreError):
            for key in [key async for key in super().list()]:
                await super().delete(key)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        with reaching(self.label, StoreError):
            async for key in super().list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys below."""
        with reaching(self.label, StoreError):
            async for key in super().list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below."""
        with reaching(self.label, StoreError):
            async for key in super().list_dir(prefix):
                yield key
