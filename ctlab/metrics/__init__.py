"""Counters of containers: read by a process of their own, kept in a ring, shown as frames."""
