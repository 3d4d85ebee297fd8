"""One file for each thing that is measured; each runs in a process, and where needed in namespaces, of its own."""
