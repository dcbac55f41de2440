"""The service: the same solves behind gRPC, with jobs that outlive their callers, tenants, and telemetry."""
