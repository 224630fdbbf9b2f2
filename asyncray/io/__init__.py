"""asyncio, sockets, shared memory and processes, without policy."""
