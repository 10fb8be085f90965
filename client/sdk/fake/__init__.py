"""A control plane and workers in one process, for tests of programs that use the library."""
