"""Clients of a service, over gRPC. What does no I/O is shared by the blocking client and the one for asyncio."""
