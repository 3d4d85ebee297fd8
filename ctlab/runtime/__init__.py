"""The lab's own processes and the protocol between them."""
