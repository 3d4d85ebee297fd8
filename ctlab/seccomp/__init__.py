"""Filters of system calls: what a container may ask of the kernel, as a table, and the program the kernel runs for it.

`default.PROFILE` is what containers get, `docker` reads profiles in Docker's format, `compile.program` makes of either
the bytes that `kernel.seccomp.install` loads. Pure: nothing here asks this machine's kernel anything. Only the lab's
owner imports it; what runs inside a lab is sent the bytes.
"""
