"""Image references and what they become: a root file system for a container."""
