"""The protocol `equipoise.v1`: its definition, and the stubs made from it by `make protocol`."""
